//! The `skein.toml` of a test's node, and the applications behind it.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use crate::{
    backend::Backend,
    cluster::{Plan, SERVICE_PORT, TRUST_DOMAIN},
};

/// The text; recording applications that it needs are started and added to `backends`.
pub(crate) fn configuration(name: &str, ip: IpAddr, dir: &Path, plan: &Plan, backends: &mut Vec<Backend>) -> String {
    let dir = dir.display();
    let locality = if plan.locality.is_empty() { String::new() } else { format!("locality = \"{}\"\n", plan.locality) };
    let mut text = format!(
        "[node]\nname = \"{name}\"\ntrust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"{dir}/data\"\n{locality}\n[runtime]\nworkers = 2\n{}\n\n[mesh]\nlisten = \"{ip}:15008\"\n{}\n\n[admin]\nlisten = \"{ip}:15000\"\nsocket = \"{dir}/agent.sock\"\n",
        plan.runtime, plan.mesh
    );
    let _ = write!(text, "\n[gateway]\nlisten = \"{ip}\"\n{}\n", plan.gateway);
    if let Some(first) = plan.services.first() {
        let instance = if first.instance.is_empty() { String::new() } else { format!("/{}", first.instance) };
        let _ = write!(text, "\n[[outbound]]\nhttp = \"{ip}:15001\"\nas = \"{}{instance}\"\n", first.name);
    }
    for service in &plan.services {
        let (namespace, short) = service.name.split_once('/').expect("NAMESPACE/NAME");
        let _ = write!(text, "\n[[service]]\nname = \"{short}\"\nnamespace = \"{namespace}\"\n");
        if !service.instance.is_empty() {
            let _ = writeln!(text, "instance = \"{}\"", service.instance);
        }
        if !service.group.is_empty() {
            let _ = writeln!(text, "group = \"{}\"", service.group);
        }
        if !service.account.is_empty() && service.group.is_empty() {
            let _ = writeln!(text, "account = \"{}\"", service.account);
        }
        if !service.uids.is_empty() {
            let _ = writeln!(text, "uids = {:?}", service.uids);
        }
        let labels: Vec<String> = service.labels.iter().map(|(key, value)| format!("{key} = \"{value}\"")).collect();
        let _ = writeln!(text, "labels = {{ {} }}", labels.join(", "));
        if !service.client {
            let own = service.own_ports.then_some(0).or(service.target_port);
            let own = own.map(|port| SocketAddr::new(ip, port));
            let target = service.target.or(own).unwrap_or_else(|| {
                let backend = Backend::start(SocketAddr::new(ip, 0), &format!("{name} {}", service.name))
                    .expect("loopback has free ports");
                backends.push(backend);
                backends[backends.len() - 1].address
            });
            let ports = if service.ports.is_empty() { &[SERVICE_PORT][..] } else { &service.ports };
            let protocol = if service.protocol.is_empty() { "http" } else { &service.protocol };
            let port = |port: &u16| {
                let target = if service.own_ports { SocketAddr::new(ip, *port) } else { target };
                let plaintext = if service.plaintext { format!(", plaintext = \"{ip}:0\"") } else { String::new() };
                format!("{{ name = \"{protocol}-{port}\", port = {port}, target = \"{target}\"{plaintext} }}")
            };
            let _ = writeln!(text, "ports = [{}]", ports.iter().map(port).collect::<Vec<_>>().join(", "));
            if !service.check.is_empty() {
                let _ = writeln!(text, "check = {}", service.check);
            }
        }
    }
    text + "\n" + &plan.extra
}
