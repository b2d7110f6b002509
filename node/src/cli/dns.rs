//! `skein dns setup`.

use std::net::SocketAddr;

use serde::Serialize;

use crate::cli::{
    context::Context,
    error::{Error, Result},
};

/// Names of services for the applications of this machine.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what lets this machine ask its node for the mesh's names; nothing is changed
    #[command(after_help = "Example: skein dns setup --print")]
    Setup {
        /// Print it: systemd-resolved's file, dnsmasq's line, resolv.conf
        #[arg(long, required = true)]
        print: bool,
    },
}

/// What there is to write.
#[derive(Debug, Serialize)]
struct Setup {
    listen: SocketAddr,
    /// The zones that the node alone answers for.
    zones: &'static [&'static str],
    files: Vec<File>,
}

#[derive(Debug, Serialize)]
struct File {
    resolver: &'static str,
    path: &'static str,
    text: String,
    /// What to do once it is written.
    then: &'static str,
}

/// Zones in which no other resolver has anything to say.
const ZONES: &[&str] = &["mesh", "svc", "cluster.local"];

/// What comes with such a host.
const BEHIND: &str =
    "and name the machine's real resolvers in [dns] upstreams: what the node does not answer of HOST it asks them.";
/// What an operator must add by hand: hosts of ServiceEntries come and go with documents, and are in zones of others.
const HOSTS: &str = "For each host of a ServiceEntry that applications reach by an address of the node";

/// Runs the command.
pub(super) fn run(command: Command, ctx: &Context) -> Result<()> {
    let Command::Setup { print: _ } = command;
    let config = ctx.config()?;
    let Some(dns) = config.dns else {
        let message = format!("[dns] is off in {}", config.file.display());
        return Err(
            Error::new("bad_config", message).hint("write [dns] into it and restart the node; its keys have defaults")
        );
    };
    if dns.listen.port() == 0 {
        let hint = "write a port into it: the machine's resolver must know one that stays";
        return Err(Error::new("bad_config", "[dns] listen has port 0, another one at each start").hint(hint));
    }
    let setup = setup(dns.listen, dns.speaker.service.namespace());
    ctx.output.show(&setup, || text(&setup))
}

fn setup(listen: SocketAddr, namespace: &str) -> Setup {
    let routed: Vec<String> = ZONES.iter().map(|zone| format!("~{zone}")).collect();
    let search = format!("{namespace}.svc.cluster.local svc.cluster.local");
    let mut files = vec![
        File {
            resolver: "systemd-resolved of systemd 258 and later",
            path: "/etc/systemd/dns-delegate.d/skein.dns-delegate",
            text: format!(
                "# {HOSTS}: add ~HOST,\n# {BEHIND}\n[Delegate]\nDNS={listen}\nDomains={search} {}\n",
                routed.join(" ")
            ),
            then: "systemctl restart systemd-resolved",
        },
        File {
            resolver: "systemd-resolved of an earlier systemd",
            path: "/etc/systemd/resolved.conf.d/skein.conf",
            text: format!(
                "# A server that stands here is asked for every name, beside the machine's own servers: name these in [dns] upstreams,\n\
                 # and know that a service NAME in a namespace that is a public domain (NAME.dev) hides the public name here.\n\
                 # {HOSTS}: add ~HOST.\n[Resolve]\nDNS={listen}\nDomains={search} {}\n",
                routed.join(" ")
            ),
            then: "systemctl restart systemd-resolved",
        },
        File {
            resolver: "dnsmasq",
            path: "/etc/dnsmasq.d/skein.conf",
            text: format!(
                "# {HOSTS}: add /HOST,\n# {BEHIND}\nserver=/{}/{}#{}\n",
                ZONES.join("/"),
                listen.ip(),
                listen.port()
            ),
            then: "systemctl restart dnsmasq",
        },
    ];
    if listen.port() == 53 {
        files.push(File {
            resolver: "resolv.conf",
            path: "/etc/resolv.conf",
            text: format!("nameserver {}\nsearch {search}\n", listen.ip()),
            then: "name the machine's own resolvers in [dns] upstreams first: this file no longer does",
        });
    }
    Setup { listen, zones: ZONES, files }
}

fn text(setup: &Setup) -> String {
    let mut text = String::new();
    for File { resolver, path, text: lines, then } in &setup.files {
        text.push_str(&format!("# {resolver}: write this to {path}, then: {then}\n{lines}\n"));
    }
    if setup.listen.port() != 53 {
        text.push_str(
            "# resolv.conf knows no ports: without another resolver let the node have port 53 of an address of its own,\n\
             # [dns] listen = \"127.0.0.2:53\" and upstreams = [...], and run this again.\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_offered_only_where_it_can_say_it() {
        let high = setup("127.0.0.1:15053".parse().unwrap(), "shop");
        assert!(high.files.iter().all(|file| file.resolver != "resolv.conf"));
        let [delegate, resolved, dnsmasq] = [0, 1, 2].map(|number| &high.files[number].text);
        for (file, section) in [(delegate, "[Delegate]\n"), (resolved, "[Resolve]\n")] {
            let lines =
                format!("{section}DNS=127.0.0.1:15053\nDomains=shop.svc.cluster.local svc.cluster.local ~mesh ~svc");
            assert!(file.contains(&lines) && file.ends_with(" ~cluster.local\n"), "{file}");
            assert!(file.contains("each host of a ServiceEntry") && file.contains("add ~HOST"), "{file}");
            assert!(file.contains("[dns] upstreams"), "{file}");
        }
        assert!(resolved.contains("asked for every name"), "{resolved}");
        assert!(dnsmasq.ends_with("asks them.\nserver=/mesh/svc/cluster.local/127.0.0.1#15053\n"), "{dnsmasq}");
        assert!(text(&high).contains("127.0.0.2:53"));
        let low = setup("127.0.0.2:53".parse().unwrap(), "shop");
        assert!(low.files[3].text.starts_with("nameserver 127.0.0.2\nsearch shop.svc.cluster.local"));
    }
}
