//! Requests and connections to hosts that ServiceEntries make.

use super::*;

const ENTRIES: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api, namespace: shop}\nspec: {hosts: [api.example.com, '*.wild.example.com'], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]}\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: own, namespace: bank}\nspec: {hosts: [vault.example.com], exportTo: [.], resolution: STATIC, ports: [{number: 8080, name: http, protocol: HTTP}]}\n---\n";

fn rules(name: &str, namespace: &str, hosts: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{hosts: [{hosts}], http: [{http}]}}\n---\n"
    )
}

fn host(world: &World, call: &Call) -> String {
    world.with(call, |routed, _| match routed {
        Ok(routed) => format!("{}:{} {}", routed.host, routed.port, routed.route.name),
        Err(refused) => refused.to_string(),
    })
}

#[test]
fn the_hosts_of_entries_are_known_to_those_who_see_them() {
    let world = World::new(ENTRIES);
    let to = |host: &str| get("/").to(host);
    assert_eq!(host(&world, &to("api.example.com")), "api.example.com:80 default");
    assert_eq!(host(&world, &to("API.example.com.:80")), "api.example.com:80 default");
    assert_eq!(host(&world, &to("api.example.com:15001")), "api.example.com:80 default", "the proxy's own port");
    assert_eq!(host(&world, &to("a.b.wild.example.com")), "*.wild.example.com:80 default");
    assert!(host(&world, &to("api.example.com:443")).contains("no HTTP port 443"));
    assert!(host(&world, &to("vault.example.com")).contains("no service is called"));
    assert_eq!(host(&world, &to("vault.example.com").from("bank")), "vault.example.com:8080 default");
    let destination = world.destination(&to("a.wild.example.com"), 0);
    assert_eq!((destination.service.clone(), destination.host.as_str()), (None, "*.wild.example.com"));
    assert_eq!(destination.cluster(80), "outbound|80||*.wild.example.com");
    let only = world.destination(&to("vault.example.com").from("bank"), 0);
    assert_eq!(only.port(&world.table, world.compiled.entries(), "bank", 80), 8080);
    assert_eq!(only.port(&world.table, world.compiled.entries(), "shop", 80), 80, "they do not see it");
}

#[test]
fn what_the_mesh_knows_is_no_other_site() {
    let rule = "{route: [{destination: {host: reviews}}]}";
    let world = World::new(&(ENTRIES.to_owned() + &rules("public", "default", "shop.example.com", rule)));
    let knows = |host: &str, namespace: &str| {
        let source = get("/").from(namespace).source;
        knows(&world.compiled, &world.table, (&source, 80), host)
    };
    for host in
        ["reviews", "Reviews.prod", "reviews.prod.mesh.", "api.example.com", "a.wild.example.com", "Shop.example.com"]
    {
        assert!(knows(host, "default"), "{host}");
    }
    for host in
        ["evil.example", "vault.example.com", "nobody.prod.mesh", "reviews.prod.mesh.evil.example", "example.com"]
    {
        assert!(!knows(host, "default"), "{host}");
    }
    assert!(knows("vault.example.com", "bank"), "exported to them alone");
}

#[test]
fn virtual_services_speak_of_them_the_most_specific_first() {
    let route = |name: &str| format!("{{name: {name}, route: [{{destination: {{host: api.example.com}}}}]}}");
    let world = World::new(
        &(ENTRIES.to_owned()
            + &rules(
                "exact",
                "default",
                "api.example.com",
                &format!("{{name: x, match: [{{uri: {{prefix: /x}}}}], redirect: {{uri: /y}}}}, {}", route("exact")),
            )
            + &rules("one", "default", "one.wild.example.com", &route("one"))
            + &rules("wide", "default", "'*.example.com'", &route("wide"))
            + &rules(
                "only",
                "default",
                "vault.example.com",
                "{name: only, match: [{uri: {prefix: /only}}], redirect: {uri: /y}}",
            )),
    );
    let takes = |host: &str, path: &str| world.takes(&get(path).to(host));
    assert_eq!(takes("api.example.com", "/x/1"), "x");
    assert_eq!(takes("api.example.com", "/"), "exact");
    assert_eq!(takes("one.wild.example.com", "/"), "one");
    assert_eq!(takes("two.wild.example.com", "/"), "wide");
    assert_eq!(world.takes(&get("/").to("vault.example.com").from("bank")), "404", "a rule was looked for in vain");
    assert_eq!(world.takes(&get("/only").to("vault.example.com").from("bank")), "only");
}

#[test]
fn rules_of_the_entrys_namespace_are_its_own() {
    let rule = |namespace: &str, timeout: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api, namespace: {namespace}}}\nspec: {{host: api.example.com, trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {timeout}}}}}, tls: {{mode: SIMPLE}}}}}}\n---\n"
        )
    };
    let world = World::new(&(ENTRIES.to_owned() + &rule("shop", "7s") + &rule("bank", "3s")));
    let timeout = |namespace: &str| {
        let destination = world.destination(&get("/").to("api.example.com").from(namespace), 0);
        destination.common.policy(80).connection_pool.tcp.connect_timeout.map(|time| time.as_secs())
    };
    assert_eq!((timeout("default"), timeout("bank")), (Some(7), Some(3)));
    assert_eq!(world.compiled.client_tls("default").count(), 1);
    assert_eq!(Compiled::build(&state_of(ENTRIES), None).client_tls("default").count(), 0);
}

#[test]
fn a_fixed_host_is_what_the_port_leads_to() {
    let world = World::new(ENTRIES);
    let source = get("/").source;
    let connect = |called: &Called| {
        let connection = Connection { called, port: 443, source: &source, address: None };
        route_tls(&world.compiled, &connection, "api.example.com").choose(|| 0).unwrap().host.clone()
    };
    assert_eq!(connect(&Called::Host("api.example.com".into())), "api.example.com");
    assert_eq!(connect(&Called::Host("a.wild.example.com".into())), "*.wild.example.com");
    let (uri, headers) = (Uri::from_static("/"), HeaderMap::new());
    let routed = |host: &str, port: u16| {
        let fixed = Some((Called::Host(host.into()), port));
        let (method, authority) = (&Method::GET, "whatever");
        let request = Request {
            method,
            uri: &uri,
            authority,
            scheme: "http",
            headers: &headers,
            source: &source,
            fixed,
            token: None,
            own_port: None,
        };
        route(&world.compiled, &world.table, &request).map(|routed| routed.host.to_string())
    };
    assert_eq!(routed("api.example.com", 80).unwrap(), "api.example.com");
    assert!(routed("api.example.com", 443).is_err() && routed("gone.example.com", 80).is_err());
}
