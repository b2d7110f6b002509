//! What a configuration file may say, and what is refused where.

use std::path::Path;

use super::*;

const NODE: &str = "[node]\nname = \"web-1\"\ntrust_domain = \"prod.example\"\n";

fn parse(rest: &str) -> Result<Config, ConfigError> {
    read_text(Path::new("skein.toml"), &format!("{NODE}{rest}"), &[])
}

fn refused(rest: &str) -> (usize, usize, String) {
    let error = parse(rest).expect_err("refused");
    assert!(!error.hint.is_empty());
    (error.line, error.column, error.message)
}

#[test]
fn only_name_and_trust_domain_have_no_default() {
    let config = parse("").unwrap();
    assert_eq!(config.mesh.listen, "0.0.0.0:15008".parse().unwrap());
    assert_eq!(config.admin.listen, "127.0.0.1:15000".parse().unwrap());
    assert_eq!(config.drain, Duration::from_secs(8));
    assert_eq!(config.metrics, None);
    assert!(config.workers >= 1);
    assert!(read_text(Path::new("x"), "[node]\nname = \"a\"\n", &[]).is_err());
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let config = parse(
        r#"locality = "eu/eu-1a"
[runtime]
workers = 4
drain = "9s"
log = "info"
format = "json"
[mesh]
listen = "0.0.0.0:15008"
advertise = "10.0.0.5:15008"
peers = ["10.0.0.4:15008", "web-2:15008"]
transport = "tcp"
[admin]
listen = "127.0.0.1:15000"
allow = ["10.0.0.0/8"]
[metrics]
listen = "127.0.0.1:15020"
[[outbound]]
http = "127.0.0.1:15001"
as = "default/reviews"
[[service]]
name = "reviews"
namespace = "default"
account = "bookinfo-reviews"
labels = { app = "reviews", version = "v1" }
ports = [{ name = "http", port = 9080, protocol = "http", target = "127.0.0.1:9081" }]
check = { http = "/health", interval = "2s", rise = 2, fall = 3 }
[[upstream]]
listen = "127.0.0.1:5432"
service = "default/ratings"
port = 9080
"#,
    )
    .unwrap();
    assert_eq!(config.services[0].ports[0].target.port(), 9081);
    assert_eq!(config.outbounds[0].speaker, config.upstreams[0].speaker);
    assert_eq!(config.upstreams[0].called.to_string(), "default/ratings");
    assert_eq!(config.mesh.transport, Transport::Tcp);
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.admin.allow[0].contains("10.9.8.7".parse().unwrap()));
    assert!(!config.admin.allow[0].contains("11.9.8.7".parse().unwrap()));
}

#[test]
fn unknown_keys_and_parts_not_built_are_refused_where_they_stand() {
    assert_eq!(refused("[mesh]\nlisten_address = 1\n").0, 5);
    assert!(refused("[mesh]\nlisten_address = 1\n").2.contains("listen_address"));
    for (text, what) in [
        ("[gateway]\nlisten = \"0.0.0.0:80\"\n", "`0.0.0.0:80` is no address"),
        ("[gateway.ports]\nhttp = 8080\n", "`http` is no port of a Gateway"),
        ("[[service]]\nname = \"a\"\nports = [{ port = 1, protocol = \"UDP\" }]\n", "`udp` is not supported yet"),
        ("[[service]]\nname = \"a\"\nports = [{ port = 1, name = \"grpc-web-x\" }]\n", "`grpc-web` is not supported"),
        (
            "[workload]\n[[service]]\nname = \"a\"\noutbound = \"127.0.0.1:0\"\nuids = [1]\n",
            "`uids` beside `outbound` is not supported yet",
        ),
        (
            "[[service]]\nname = \"a\"\n[[outbound]]\nhttp = \"127.0.0.1:1\"\nuids = [1]\n",
            "`uids` is not supported yet",
        ),
    ] {
        let (line, _, message) = refused(text);
        assert!(message.contains(what) && line >= 4, "{message} at {line}");
    }
}

#[test]
fn a_complaint_points_at_line_and_column() {
    let (line, column, message) = refused("[mesh]\nlisten = \"nonsense\"\n");
    assert_eq!((line, column), (5, 10));
    assert!(message.contains("nonsense"));
    for peer in ["2001:db8::5", "[fe80::1%eth0]:15008", "[web-2]:15008", "web-2", "web 2:1", "web-2:0"] {
        let (line, _, message) = refused(&format!("[mesh]\npeers = [\"{peer}\"]\n"));
        assert!(line == 5 && message.contains("is no HOST:PORT"), "{peer}: {message} at {line}");
    }
    for peer in ["[2001:db8::5]:15008", "[fe80::1%2]:15008", "10.0.0.4:1", "web-2:15008"] {
        assert_eq!(parse(&format!("[mesh]\npeers = [\"{peer}\"]\n")).unwrap().mesh.peers, [peer]);
    }
    assert_eq!(refused("[runtime]\nworkers = 0\n").0, 5);
    assert_eq!(refused("[runtime]\ndrain = \"8 parsecs\"\n").0, 5);
    assert_eq!(refused("[runtime]\nworkers = \"four\"\n").0, 5);
    let bad = read_text(Path::new("s.toml"), "[node]\nname = \"Web_1\"\ntrust_domain = \"t\"\n", &[]).unwrap_err();
    assert_eq!((bad.line, bad.column), (2, 8));
}

#[test]
fn a_port_says_who_speaks_there() {
    let two = "[[service]]\nname = \"a\"\n[[service]]\nname = \"b\"\n";
    assert!(refused("[[outbound]]\nhttp = \"127.0.0.1:1\"\n").2.contains("no service"));
    assert!(refused(&format!("{two}[[outbound]]\nhttp = \"127.0.0.1:1\"\n")).2.contains("`as` is missing"));
    let named = format!("{two}[[outbound]]\nhttp = \"127.0.0.1:1\"\nas = \"default/b\"\n");
    assert_eq!(parse(&named).unwrap().outbounds[0].speaker.to_string(), "default/b");
    let own = "[[service]]\nname = \"a\"\noutbound = \"127.0.0.1:0\"\n";
    assert_eq!(parse(own).unwrap().outbounds[0].speaker.to_string(), "default/a");
}

#[test]
fn one_without_an_instance_speaks_by_its_own_name() {
    let services =
        |first: &str| format!("[[service]]\nname = \"a\"\n{first}[[service]]\nname = \"a\"\ninstance = \"two\"\n");
    let speaks = |name: &str| format!("[[outbound]]\nhttp = \"127.0.0.1:1\"\nas = \"{name}\"\n");
    for name in ["default/a", "default/a/two"] {
        let text = services("") + &speaks(name);
        assert_eq!(parse(&text).unwrap().outbounds[0].speaker.to_string(), name);
    }
    let text = services("instance = \"one\"\n") + &speaks("default/a");
    assert!(refused(&text).2.contains("several instances"));
}

#[test]
fn addresses_and_services_are_not_taken_twice() {
    let twice = "[admin]\nlisten = \"127.0.0.1:9\"\n[metrics]\nlisten = \"127.0.0.1:9\"\n";
    assert!(refused(twice).2.contains("taken by [admin] listen"));
    let speaks = "[[service]]\nname = \"a\"\n[[outbound]]\nhttp = ";
    let same = "[[service]]\nname = \"a\"\n[[service]]\nname = \"a\"\n";
    assert!(refused(same).2.contains("twice"));
    let told_apart = "[[service]]\nname = \"a\"\n[[service]]\nname = \"a\"\ninstance = \"two\"\n";
    assert_eq!(parse(told_apart).unwrap().services.len(), 2);
    // What the file leaves to its default is taken, too; the complaint points at what is written.
    for (text, place, by) in [
        (format!("{speaks}\"127.0.0.1:15000\"\n"), (7, 8), "127.0.0.1:15000 is taken by [admin] listen (its default)"),
        ("[mesh]\nlisten = \"127.0.0.1:15000\"\n".to_owned(), (5, 10), "taken by [admin] listen (its default)"),
        (format!("{speaks}\"0.0.0.0:15008\"\n"), (7, 8), "taken by [mesh] listen (its default)"),
        (format!("{speaks}\"127.0.0.1:15053\"\n[dns]\n"), (7, 8), "taken by [dns] listen (its default)"),
        (format!("{speaks}\"127.0.0.1:15002\"\n[capture]\n"), (7, 8), "taken by [capture] port (its default)"),
    ] {
        let (line, column, message) = refused(&text);
        assert!((line, column) == place && message.ends_with(by), "{line}:{column}: {message}");
    }
    let freed = format!("[admin]\nlisten = \"127.0.0.1:9\"\n{speaks}\"127.0.0.1:15000\"\n");
    assert_eq!(parse(&freed).unwrap().outbounds.len(), 1);
}

#[test]
fn what_takes_an_address_is_named_with_its_file_and_line() {
    let text = format!("{NODE}[[service]]\nname = \"a\"\n[[outbound]]\nhttp = \"10.0.0.5:0\"\n");
    let upstream = "[[upstream]]\nservice = \"default/b\"\nport = 1\nlisten = \"127.0.0.1:9\"\n";
    let (one, other) = (Path::new("services.d/a.toml"), Path::new("services.d/b.toml"));
    let error = read_text(Path::new("skein.toml"), &text, &[(one, upstream), (other, upstream)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "services.d/b.toml:4:10: 127.0.0.1:9 is taken by services.d/a.toml:4:10: [[upstream]] listen"
    );
    let listeners = read_text(Path::new("skein.toml"), &text, &[(one, upstream)]).unwrap().listeners;
    let named = |at: &str| listeners.named(at.parse().unwrap(), "x");
    // A port of 0 may be many listeners', and is named all the same.
    assert_eq!(named("10.0.0.5:0"), "skein.toml:7:8: [[outbound]] http");
    assert_eq!(named("127.0.0.1:15000"), "skein.toml: [admin] listen (its default)");
    assert_eq!(named("10.0.0.5:9"), "x");
}

#[test]
fn a_gateways_address_and_ports_are_told_apart() {
    let gateway = parse("[gateway]\nlisten = \"10.0.0.5\"\n[gateway.ports]\n80 = 8080\n443 = 8443\n").unwrap().gateway;
    let line = |place: Option<&Place>| place.map(|place| (place.line, place.key.clone()));
    assert_eq!(line(gateway.listen_place.as_ref()), Some((5, "[gateway] listen".to_owned())));
    assert_eq!(line(gateway.port_places.get(&443)), Some((8, "[gateway] ports".to_owned())));
    assert_eq!(line(gateway.port_places.get(&9)), None);
}

#[test]
fn services_d_adds_to_the_file() {
    let more = "[[service]]\nname = \"b\"\nports = [{ name = \"grpc-x\", port = 7 }]\n";
    let text = format!("{NODE}[[service]]\nname = \"a\"\n");
    let config = read_text(Path::new("skein.toml"), &text, &[(Path::new("services.d/b.toml"), more)]).unwrap();
    assert_eq!(config.services.len(), 2);
    assert_eq!(config.services[1].ports[0].protocol, Protocol::Grpc);
    let asked = vec![(7, "127.0.0.1:7".parse().unwrap())];
    assert_eq!(config.services[1].check.as_ref().unwrap().probe, Probe::Ports(asked));
    let bad = read_text(Path::new("skein.toml"), &text, &[(Path::new("b.toml"), "[node]\n")]).unwrap_err();
    assert_eq!(bad.file, Path::new("b.toml"));
}

#[test]
fn istio_selects_the_protocol_where_none_is_written() {
    let ports = |ports: &str| {
        let service = parse(&format!("[[service]]\nname = \"a\"\nports = [{ports}]\n")).unwrap().services.remove(0);
        service.ports.into_iter().map(|port| (port.name, port.protocol)).collect::<Vec<_>>()
    };
    let one = |text: &str| ports(text).remove(0).1;
    for (text, protocol) in [
        ("{ port = 1, protocol = \"HTTPS\" }", Protocol::Tls),
        ("{ port = 1, protocol = \"mongo\", name = \"http\" }", Protocol::Tcp),
        ("{ port = 1, name = \"tcp-echo\" }", Protocol::Tcp),
        ("{ port = 1, name = \"redis\" }", Protocol::Tcp),
        ("{ port = 1, name = \"tls-web\" }", Protocol::Tls),
        ("{ port = 1, name = \"web\" }", Protocol::Sniffed),
        ("{ port = 1 }", Protocol::Sniffed),
        ("{ port = 3306 }", Protocol::Tcp),
        ("{ port = 3306, name = \"http\" }", Protocol::Http),
    ] {
        assert_eq!(one(text), protocol, "{text}");
    }
    let unnamed = ports("{ port = 9000 }, { port = 9001 }, { port = 9002, protocol = \"tcp\" }");
    assert_eq!(unnamed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["9000", "9001", "tcp"]);
    assert!(
        refused("[[service]]\nname = \"a\"\nports = [{ port = 1, protocol = \"quic\" }]\n")
            .2
            .contains("unknown protocol")
    );
    let of_tls = "[[service]]\nname = \"a\"\nports = [{ port = 1, protocol = \"tls\" }]\ncheck = { http = \"/\" }\n";
    assert!(refused(of_tls).2.contains("speaks TLS"));
}

#[test]
fn users_get_a_services_identity_where_the_workload_api_is_on() {
    let service = |uids: &str| format!("[[service]]\nname = \"a\"\nuids = {uids}\n");
    let on = |uids: &str| format!("[workload]\n{}", service(uids));
    let config = parse(&on("[0, 1000]")).unwrap();
    assert_eq!(config.services[0].uids, [0, 1000]);
    assert_eq!(config.workload, Some(paths::current().workload));
    assert_eq!(parse("[workload]\nsocket = \"/x/w.sock\"\n").unwrap().workload, Some("/x/w.sock".into()));
    assert_eq!(parse("").unwrap().workload, None);
    let (line, column, message) = refused(&service("[1000]"));
    assert!((line, column) == (6, 8) && message.contains("Workload API, which is off"), "{line}:{column} {message}");
    for (bad, why) in [
        ("[7, 7]", "there twice"),
        ("[-1]", "not within"),
        ("[4294967295]", "not within"),
        ("[\"ann\"]", "invalid type"),
    ] {
        assert!(refused(&on(bad)).2.contains(why), "{bad}: {}", refused(&on(bad)).2);
    }
    let many: Vec<u32> = (0..33).collect();
    assert!(refused(&on(&format!("{many:?}"))).2.contains("more than 32"));
}

#[test]
fn a_check_asks_each_port_or_the_one_that_it_names() {
    let ports = "ports = [{ port = 80, target = \"127.0.0.1:8080\" }, { port = 9090, protocol = \"http\" }]\n";
    let text = |check: &str| format!("[[service]]\nname = \"a\"\n{ports}{check}");
    let check = |check: &str| parse(&text(check)).unwrap().services.remove(0).check.unwrap();
    let [first, second]: [SocketAddr; 2] = ["127.0.0.1:8080", "127.0.0.1:9090"].map(|at| at.parse().unwrap());
    let all = Probe::Ports(vec![(80, first), (9090, second)]);
    assert_eq!((check("").probe, check("check = { tcp = true }\n").probe), (all.clone(), all));
    let named = check("check = { http = \"/ready\", port = 9090, timeout = \"500ms\" }\n");
    assert_eq!(
        (named.target, named.protocol, named.timeout),
        (second, Protocol::Http, Some(Duration::from_millis(500)))
    );
    assert_eq!(check("check = { http = \"/ready\" }\n").target, first);
    let one = check("check = { port = 80 }\n");
    assert_eq!((one.probe, one.target), (Probe::Tcp, first));
    let elsewhere = check("check = { http = \"/health\", target = \"127.0.0.1:8081\" }\n");
    assert_eq!((elsewhere.target, elsewhere.protocol), (([127, 0, 0, 1], 8081).into(), Protocol::Http));
    assert_eq!(check("check = { target = \"127.0.0.1:8081\" }\n").probe, Probe::Tcp);
    for bad in ["port = 80, target = \"127.0.0.1:8081\"", "target = \"127.0.0.1:0\"", "target = \"8081\""] {
        refused(&text(&format!("check = {{ {bad} }}\n")));
    }
    let mut again =
        parse(&text("check = { http = \"/health\", target = \"127.0.0.1:8081\" }\n")).unwrap().services.remove(0);
    let written = service_to_toml(&again);
    again = service_from_toml(Path::new("again"), &written).unwrap();
    assert_eq!(again.check, Some(elsewhere), "{written}");
    let (line, _, message) = refused(&text("check = { port = 81 }\n"));
    assert!(line == 7 && message.contains("no port 81"), "{line}: {message}");
    assert!(refused(&text("check = { port = 80, timeout = \"1ms\" }\n")).2.contains("out of range"));
    for (given, port) in [
        ("", None),
        ("check = { http = \"/x\" }\n", None),
        ("check = { http = \"/x\", port = 80 }\n", None),
        ("check = { tcp = true, port = 80 }\n", Some(80)),
        ("check = { port = 9090, timeout = \"1s\" }\n", Some(9090)),
        ("check = { http = \"/x\", port = 9090 }\n", Some(9090)),
    ] {
        let service = parse(&text(given)).unwrap().services.remove(0);
        let written = service_to_toml(&service);
        let line = written.lines().find(|line| line.starts_with("check = ")).unwrap();
        let said = line.split_once("port = ").map(|(_, rest)| rest.split(',').next().unwrap().parse::<u16>().unwrap());
        assert_eq!(said, port, "an older build does not know the key: {line}");
        assert_eq!(service_from_toml(Path::new("a.toml"), &written).unwrap(), service, "{written}");
    }
}

#[test]
fn what_is_written_says_where_things_lie_and_names_every_section() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("skein.toml");
    let minimal = Minimal {
        node: NodeId::new("a").unwrap(),
        trust_domain: TrustDomain::new("t.example").unwrap(),
        advertise: None,
    };
    let config = ensure(&file, &minimal).unwrap();
    assert_eq!(config.farewell, Duration::from_millis(300));
    let text = std::fs::read_to_string(&file).unwrap();
    // Another user reads it, too, and has other places of its own.
    for line in [
        format!("data_dir = \"{}\"", config.data_dir.display()),
        format!("socket = \"{}\"", config.admin.socket.display()),
    ] {
        assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
    }
    // All that it shows as a comment can be read.
    let shown: String = text.lines().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
    let from = shown.find("[node]").unwrap();
    let config =
        read_text(Path::new("skein.toml"), &shown[from..].replace("Services of this machine", "# Services"), &[])
            .unwrap();
    assert_eq!((config.services.len(), config.gateway.ports.get(&80)), (1, Some(&8080)));
}

#[test]
fn a_service_survives_being_written() {
    let text = "[[service]]\nname = \"a\"\ninstance = \"i\"\nlabels = { \"a.b/c\" = \"x \\\" y\" }\n\
                ports = [{ name = \"http\", port = 80, protocol = \"http2\", target = \"127.0.0.1:81\", plaintext = \"10.0.0.5:80\" }]\n\
                check = { grpc = \"x.Y\", interval = \"1500ms\" }\noutbound = \"127.0.0.1:0\"\n";
    let service = parse(text).unwrap().services.remove(0);
    let written = service_to_toml(&service);
    assert_eq!(service_from_toml(Path::new("a.toml"), &written).unwrap(), service, "{written}");
    let undeclared = text.replace("protocol = \"http2\", ", "").replace("name = \"http\"", "name = \"web\"");
    let service = parse(&undeclared).unwrap().services.remove(0);
    assert_eq!(service.ports[0].protocol, Protocol::Sniffed);
    let written = service_to_toml(&service);
    assert_eq!(service_from_toml(Path::new("a.toml"), &written).unwrap(), service, "{written}");
}

#[test]
fn plaintext_is_taken_where_nothing_else_listens() {
    let port = |rest: &str| {
        format!("[[service]]\nname = \"a\"\nports = [{{ port = 80, target = \"127.0.0.1:8080\", {rest} }}]\n")
    };
    let read = parse(&port("plaintext = \"10.0.0.5:8080\"")).unwrap();
    assert_eq!(read.services[0].ports[0].plaintext, "10.0.0.5:8080".parse().ok());
    assert_eq!(parse(&port("name = \"x\"")).unwrap().services[0].ports[0].plaintext, None);
    let (line, column, message) = refused(&port("plaintext = \"0.0.0.0:8080\""));
    assert!(
        (line, column) == (6, 62) && message.contains("where the application listens"),
        "{line}:{column} {message}"
    );
    assert!(refused(&port("plaintext = \"127.0.0.1:8080\"")).2.contains("where the application listens"));
    assert!(refused(&port("plaintext = \"web:8080\"")).2.contains("no ADDRESS:PORT"));
    let number = port("name = \"x\"").replacen("ports = [{", "ports = [80, {", 1);
    assert!(refused(&number).2.contains("expected a table, as in `ports = [{ port = 80 }]`"), "{:?}", refused(&number));
    assert!(refused(&port("plaintext = true")).2.contains("invalid type"));
    let twice = format!("{}[[outbound]]\nhttp = \"10.0.0.5:80\"\n", port("plaintext = \"10.0.0.5:80\""));
    assert!(refused(&twice).2.contains("taken by [[service]] plaintext of port 80 (line 6)"), "{:?}", refused(&twice));
}

#[test]
fn the_first_file_is_written_and_a_foreign_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etc/skein.toml");
    let minimal = |node: &str| Minimal {
        node: NodeId::new(node).unwrap(),
        trust_domain: TrustDomain::new("prod.example").unwrap(),
        advertise: None,
    };
    let config = ensure(&file, &minimal("web-1")).unwrap();
    assert_eq!(config.node.as_str(), "web-1");
    assert_eq!(ensure(&file, &minimal("web-1")).unwrap(), config);
    assert!(ensure(&file, &minimal("web-2")).unwrap_err().message.contains("web-1"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|\\n){0,200}") {
        let _ = parse(&text);
        let _ = read_text(Path::new("x"), &text, &[]);
    }
}
