//! The node's own collector, and how much is sampled where policy does not say: OpenTelemetry's variables.
//!
//! Source: OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry Protocol Exporter".

use super::{lane::Batching, target::Target};
use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use std::{path::PathBuf, time::Duration};

/// Istio's default: of a hundred requests one.
const PERCENT: f64 = 1.0;
/// OTLP's own.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Variables of OTLP that would change what is sent and to whom, and are not obeyed here: who sets one is told, not left to believe.
const NOT_OBEYED: [&str; 2] = ["CLIENT_CERTIFICATE", "CLIENT_KEY"];

/// Variables that are obeyed, or whose words are: those of [`OTLP`] beside them.
const HEEDED: [&str; 13] = [
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_PROPAGATORS",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];
/// The same after `OTEL_EXPORTER_OTLP_`, with `TRACES_` and without; some of them are refused.
const OTLP: [&str; 9] = [
    "ENDPOINT",
    "PROTOCOL",
    "HEADERS",
    "TIMEOUT",
    "CERTIFICATE",
    "COMPRESSION",
    "INSECURE",
    NOT_OBEYED[0],
    NOT_OBEYED[1],
];

/// Spans that wait for a collector at most, whatever is asked for: beyond their bytes each batch takes some memory of its own.
const LONGEST_QUEUE: usize = 8_192;

/// What the environment says. Without an endpoint there is no collector.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// Who takes spans where policy names no provider.
    pub(super) traces: Option<Target>,
    /// Percent of requests that are sampled where neither a caller nor policy decides.
    pub(super) percent: f64,
    /// `service.name`, instead of each service's own.
    pub(super) service_name: Option<String>,
    /// Further attributes of the resource.
    pub(super) resource: Vec<(String, String)>,
    /// How spans are gathered for the node's own collector.
    pub(super) batching: Batching,
}

impl Default for Environment {
    /// Nothing is set.
    fn default() -> Self {
        let batching = Batching::default();
        Self { traces: None, percent: PERCENT, service_name: None, resource: Vec::new(), batching }
    }
}

impl Environment {
    /// Reads it; `variable` gives one by its name.
    ///
    /// # Errors
    /// Which variable says what it cannot, for people.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if get("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
            return Ok(Self::default());
        }
        let pairs = |name: &str| get(name).map_or(Ok(Vec::new()), |text| pairs(name, &text));
        let is_off = match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => false,
            Some("none") => true,
            Some(other) => return Err(format!("OTEL_TRACES_EXPORTER={other}: there are otlp and none")),
        };
        if let Some(all) = get("OTEL_PROPAGATORS") {
            let known = ["tracecontext", "baggage", "b3", "b3multi"];
            if let Some(other) = all.split(',').map(str::trim).find(|one| !known.contains(one)) {
                return Err(format!("OTEL_PROPAGATORS={other}: there are {}, all of them always", known.join(", ")));
            }
        }
        Ok(Self {
            traces: if is_off { None } else { target(&get)? },
            percent: percent(&get)?,
            service_name: get("OTEL_SERVICE_NAME"),
            resource: pairs("OTEL_RESOURCE_ATTRIBUTES")?,
            batching: batching(&get),
        })
    }

    /// What is to be said of variables that are set and change nothing here; spans go out all the same.
    pub fn unheeded(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
        let is_heeded = |name: &str| {
            let of_otlp = name.strip_prefix("OTEL_EXPORTER_OTLP_");
            let of_otlp = of_otlp.map(|rest| rest.strip_prefix("TRACES_").unwrap_or(rest));
            HEEDED.contains(&name) || of_otlp.is_some_and(|rest| OTLP.contains(&rest))
        };
        let note = |(name, value): (String, String)| match (name.as_str(), value.trim()) {
            (_, "") | ("OTEL_METRICS_EXPORTER", "none" | "prometheus") | ("OTEL_LOGS_EXPORTER", "none") => None,
            ("OTEL_METRICS_EXPORTER", _) => Some(format!("{name}: metrics are for Prometheus to scrape, at /metrics")),
            // As OpenTelemetry has it: a number that cannot be is named, and the default holds.
            (name, text) if name.starts_with("OTEL_BSP_") && is_heeded(name) => {
                whole(text).is_none().then(|| format!("{name}={text} is not a whole number above 0: its default holds"))
            }
            ("OTEL_LOGS_EXPORTER", _) => {
                Some(format!("{name}: only a Telemetry sends the access log to a collector (envoyOtelAls)"))
            }
            // The value may be a secret: it is not told.
            (name, _) if name.starts_with("OTEL_") && !is_heeded(name) => Some(format!("{name} means nothing here")),
            (_, _) => None,
        };
        let mut notes: Vec<String> = variables.filter_map(note).collect();
        notes.sort();
        notes
    }

    /// True if spans go to the node's own collector.
    #[must_use]
    pub fn takes_spans(&self) -> bool {
        self.traces.is_some()
    }

    /// Percent of requests that are sampled where neither a caller nor policy decides.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.percent
    }
}

fn target(get: &impl Fn(&str) -> Option<String>) -> Result<Option<Target>, String> {
    // A variable for traces alone goes before the one for all.
    let either = |name: &str| {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| get(&name).map(|value| (name, value)))
    };
    let Some((name, endpoint)) = either("ENDPOINT") else { return Ok(None) };
    let is_grpc = match either("PROTOCOL") {
        None => false,
        Some((_, protocol)) if protocol == "http/protobuf" => false,
        Some((_, protocol)) if protocol == "grpc" => true,
        Some((name, protocol)) => return Err(format!("{name}={protocol}: there are grpc and http/protobuf")),
    };
    let gzip = match either("COMPRESSION") {
        None => false,
        Some((_, compression)) if compression == "none" => false,
        Some((_, compression)) if compression == "gzip" => true,
        Some((name, compression)) => return Err(format!("{name}={compression}: there are gzip and none")),
    };
    if let Some((name, _)) = NOT_OBEYED.iter().find_map(|name| either(name)) {
        return Err(format!("{name}: this node shows a collector no certificate of its own"));
    }
    let timeout = match either("TIMEOUT") {
        None => TIMEOUT,
        Some((name, text)) => {
            let millis = text.parse().map_err(|_| format!("{name}={text}: not a number of milliseconds"))?;
            Duration::from_millis(millis)
        }
    };
    let mut headers = Vec::new();
    if let Some((name, text)) = either("HEADERS") {
        for (key, value) in pairs(&name, &text)? {
            let read = HeaderName::from_bytes(key.to_ascii_lowercase().as_bytes()).ok();
            // The value may be a secret: it is not told.
            let header =
                read.zip(HeaderValue::from_str(&value).ok()).ok_or_else(|| format!("{name}: `{key}` is no header"))?;
            headers.push(header);
        }
    }
    let no_url = || format!("{name}={endpoint}: write it like http://localhost:4318");
    let uri: Uri = endpoint.parse().map_err(|_| no_url())?;
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(no_url()),
    };
    if let Some((variable, text)) = either("INSECURE").filter(|(_, text)| text.eq_ignore_ascii_case("true") == is_tls) {
        return Err(format!("{variable}={text}: {name}={endpoint} says otherwise"));
    }
    let authority = uri.authority().ok_or_else(no_url)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(match (is_grpc, is_tls) {
        (true, _) => 4317,
        (false, false) => 80,
        (false, true) => 443,
    });
    let path = uri.path().trim_end_matches('/');
    let path = match (is_grpc, name.contains("_TRACES_")) {
        (true, _) => None,
        (false, true) => Some(if path.is_empty() { "/".to_owned() } else { uri.path().to_owned() }),
        (false, false) => Some(format!("{path}/v1/traces")),
    };
    let authorities = either("CERTIFICATE").map(|(_, file)| PathBuf::from(file));
    Ok(Some(Target { host, port, is_tls, authorities, path, headers, timeout, gzip }))
}

/// OpenTelemetry's batch span processor, as far as it is set to what can be.
fn batching(get: &impl Fn(&str) -> Option<String>) -> Batching {
    let number = |name: &str| get(name).and_then(|text| whole(&text));
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let time = |name: &str| number(name).map(Duration::from_millis);
    let mut batching = Batching::default();
    batching.delay = time("OTEL_BSP_SCHEDULE_DELAY").unwrap_or(batching.delay);
    batching.patience = time("OTEL_BSP_EXPORT_TIMEOUT");
    batching.queue = number("OTEL_BSP_MAX_QUEUE_SIZE").map_or(batching.queue, count).min(LONGEST_QUEUE);
    if let Some(most) = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").map(count) {
        (batching.most, batching.full) = (most, most);
    }
    batching.full = batching.full.min(batching.queue);
    batching
}

fn whole(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number > 0)
}

/// A decision that was made before always holds, as with the samplers called `parentbased_`.
fn percent(get: &impl Fn(&str) -> Option<String>) -> Result<f64, String> {
    let Some(sampler) = get("OTEL_TRACES_SAMPLER") else { return Ok(PERCENT) };
    match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
        "always_on" => Ok(100.0),
        "always_off" => Ok(0.0),
        "traceidratio" => match get("OTEL_TRACES_SAMPLER_ARG") {
            None => Ok(100.0),
            Some(text) => {
                let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
                share
                    .map(|share| share * 100.0)
                    .ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG={text}: not between 0 and 1"))
            }
        },
        _ => Err(format!("OTEL_TRACES_SAMPLER={sampler}: there are always_on, always_off and traceidratio")),
    }
}

/// `KEY=VALUE,KEY=VALUE`, with values in percent encoding.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |pair: &str| {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.trim().is_empty())
            .ok_or_else(|| format!("{name}: write it like key=value,key=value"))?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| format!("{name}: not text in UTF-8"))?;
        Ok((key.trim().to_owned(), value.into_owned()))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, String> {
        Environment::read(|name| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn nothing_is_sent_without_an_endpoint() {
        assert_eq!(read(&[]), Ok(Environment::default()));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        assert!(read(&[endpoint]).unwrap().takes_spans());
        assert!(!read(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap().takes_spans());
        assert!(!read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().takes_spans());
        let fine = [
            endpoint,
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_PROPAGATORS", "tracecontext,baggage, b3"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ];
        assert!(read(&fine).unwrap().takes_spans());
    }

    #[test]
    fn the_variable_for_traces_goes_before_the_one_for_all() {
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example/base/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20abc, x-tenant=shop"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,zone=a%2Cb"),
        ];
        let read_all = read(&all).unwrap();
        let target = read_all.traces.unwrap();
        assert_eq!((target.host.as_str(), target.port, target.is_tls), ("otel.example", 443, true));
        assert_eq!(target.path.as_deref(), Some("/base/v1/traces"));
        assert_eq!(
            (target.headers[0].0.as_str(), target.headers[0].1.as_bytes()),
            ("authorization", &b"Bearer abc"[..])
        );
        assert_eq!(target.timeout, Duration::from_millis(2_500));
        assert_eq!(read_all.resource[1], ("zone".to_owned(), "a,b".to_owned()));
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[::1]/traces");
        let target = read(&[all[0], own]).unwrap().traces.unwrap();
        assert_eq!((target.host.as_str(), target.port, target.path.as_deref()), ("::1", 80, Some("/traces")));
        let grpc = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        let target = read(&grpc).unwrap().traces.unwrap();
        assert_eq!((target.port, target.path), (4_317, None));
    }

    #[test]
    fn samplers_give_the_share() {
        let share = |sampler, argument| {
            read(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)]).map(|read| read.percent)
        };
        assert_eq!(share("always_on", ""), Ok(100.0));
        assert_eq!(share("parentbased_always_off", ""), Ok(0.0));
        assert_eq!(share("parentbased_traceidratio", "0.25"), Ok(25.0));
        assert!(share("traceidratio", "2").is_err() && share("jaeger_remote", "").is_err());
    }

    #[test]
    fn what_cannot_be_is_named_and_secrets_are_not() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%0asecret"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_PROPAGATORS", "b3,xray"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "false"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/secret"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/secret"),
        ] {
            let error = read(&[(name, value), endpoint]).unwrap_err();
            assert!(error.contains(name) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_changes_nothing_is_named_and_spans_go_out() {
        let set = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://secret"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "secret"),
            ("OTEL_BLRP_SCHEDULE_DELAY", ""),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "5000"),
            ("HOME", "/"),
        ];
        let environment = read(&set).unwrap();
        assert!(environment.traces.unwrap().gzip);
        let patience = Some(Duration::from_secs(5));
        assert_eq!(environment.batching, Batching { patience, ..Batching::default() });
        let notes = Environment::unheeded(set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let named: Vec<&str> = notes.iter().filter_map(|note| note.split([' ', ':', '=']).next()).collect();
        let wanted = [
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "OTEL_METRICS_EXPORTER",
            "OTEL_SPAN_EVENT_COUNT_LIMIT",
        ];
        assert_eq!(named, wanted);
        assert!(!notes.concat().contains("secret"), "{notes:?}");
    }

    #[test]
    fn spans_are_gathered_as_the_batch_processor_is_told() {
        let set = [
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "5000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50"),
        ];
        let wanted = Batching {
            delay: Duration::from_millis(250),
            patience: Some(Duration::from_secs(5)),
            queue: 100,
            most: 50,
            full: 50,
        };
        assert_eq!(read(&set).unwrap().batching, wanted);
        let endless = read(&[("OTEL_BSP_MAX_QUEUE_SIZE", "1000000000")]).unwrap().batching;
        assert_eq!(endless.queue, LONGEST_QUEUE);
        let small = read(&[set[2]]).unwrap().batching;
        assert_eq!((small.queue, small.full), (100, 100), "what waits at most is worth an export");
    }
}
