//! Cases by a seed: a good one, varied within the rules, then spoilt in none to three places. What spoils is often harmless
//! where it meets another change, and bounds are hit to the second: whether a case is good is for the rules to say.

use super::case::{
    ACCOUNTS, Basic, Case, Cert, DAY, ENROLLER, Extended, Extension, Grant, HOUR, KEYS, LEAF, MINUTE, NAMESPACES, NODE,
    NODES, NOW, P256_KEYS, Pattern, REDEEMER, Redemption, TRUST_DOMAIN, Unknown, Usage,
};

/// SplitMix64: the same seed, the same cases.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn seconds(&mut self, from: i64, until: i64) -> i64 {
        from + (self.next() % (until - from + 1).unsigned_abs()) as i64
    }
}

pub(super) fn case(random: &mut Random) -> Case {
    let mut case = Case::good();
    vary(&mut case, random);
    let spoilt = match random.below(100) {
        0..20 => 0,
        20..70 => 1,
        70..90 => 2,
        _ => 3,
    };
    for _ in 0..spoilt {
        spoil(&mut case, random);
    }
    case
}

/// Another good case.
fn vary(case: &mut Case, random: &mut Random) {
    let (namespace, account) = (random.below(2), random.below(2));
    if random.chance(20) {
        identify(&mut case.certs[LEAF], &node_uri(1), &format!("{}._node.{TRUST_DOMAIN}", NODES[1]));
    } else {
        call(&mut case.certs[LEAF], namespace, account);
    }
    let exact = Pattern::Exact(namespace, account);
    let wide = [exact, Pattern::Namespace(namespace), Pattern::All];
    let (own, theirs) = match random.below(4) {
        0 => (exact, random.of(&wide)),
        1 => (Pattern::Namespace(namespace), random.of(&wide[1..])),
        _ => (random.of(&wide), Pattern::All),
    };
    for (place, pattern) in [(NODE, own), (ENROLLER, theirs)] {
        if let Extension::Grant(grant) = &mut case.certs[place].grant {
            grant.accounts = vec![pattern];
            grant.services = vec![pattern];
        }
    }
    case.policy.grants[1].services = vec![(namespace, account)];
    if random.chance(30) {
        case.policy.grants[1].services.push((random.below(2), random.below(2)));
    }
    if random.chance(30) {
        case.policy.known.push((1, 3, case.certs[NODE].key));
    }
    if random.chance(20) {
        case.policy.grants[0].epoch += 1;
    }
    if random.chance(15) {
        case.certs[LEAF].basic = Basic::NoCa;
    }
    if random.chance(20) {
        // As our own CAs are made.
        case.certs[ENROLLER].permitted = Some(vec![TRUST_DOMAIN.to_owned()]);
    }
    if random.chance(20) {
        // A root to come or to go.
        let mut other = case.roots[0].clone();
        (other.key, other.signer) = (6, 6);
        case.roots.insert(random.below(2), other);
    }
    shorten(case, random);
    if random.chance(40) {
        let by_itself = random.chance(30);
        case.redeem(by_itself);
        if random.chance(30) {
            // Long ago, when nothing else was there yet.
            let redeemer = &mut case.certs[REDEEMER];
            (redeemer.from, redeemer.until) = (case.roots[0].from, case.roots[0].from + random.seconds(0, DAY));
        }
    }
}

/// Other lives, nested; in a third of the places the bound itself.
fn shorten(case: &mut Case, random: &mut Random) {
    for place in [ENROLLER, NODE, LEAF] {
        let (from, until) = match place {
            ENROLLER => (case.roots[0].from, case.roots[0].until),
            _ => (case.certs[place + 1].from, case.certs[place + 1].until),
        };
        let cert = &mut case.certs[place];
        cert.from = if random.chance(33) { from } else { random.seconds(from, NOW) };
        let longest = (cert.from + [DAY, 30 * DAY, 365 * DAY][place]).min(until);
        let shortest = (NOW + MINUTE).min(longest);
        cert.until = if random.chance(33) { longest } else { random.seconds(shortest, longest) };
    }
}

fn call(leaf: &mut Cert, namespace: usize, account: usize) {
    let (namespace, account) = (NAMESPACES[namespace], ACCOUNTS[account]);
    let uri = format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}");
    identify(leaf, &uri, &format!("{account}.{namespace}.{TRUST_DOMAIN}"));
}

fn identify(leaf: &mut Cert, uri: &str, dns: &str) {
    (leaf.uris, leaf.dns) = (vec![uri.to_owned()], vec![dns.to_owned()]);
}

fn node_uri(node: usize) -> String {
    format!("spiffe://{TRUST_DOMAIN}/mesh/node/{}", NODES[node])
}

fn spoil(case: &mut Case, random: &mut Random) {
    match random.below(13) {
        0 | 1 => time(case, random),
        2 => names(case, random),
        3 => usages(any(case, random), random),
        4 => grants(case, random),
        5 | 6 => policy(case, random),
        7 | 11 => keys(case, random),
        8 => extensions(case, random),
        9 | 10 => redemptions(case, random),
        _ => shown(case, random),
    }
}

/// Any certificate, roots included.
fn any<'c>(case: &'c mut Case, random: &mut Random) -> &'c mut Cert {
    let (certs, roots) = (case.certs.len(), case.roots.len());
    match random.below(certs + roots) {
        place if place < certs => &mut case.certs[place],
        place => &mut case.roots[place - certs],
    }
}

/// A bound at, just before or just after another one, or the clock somewhere else.
fn time(case: &mut Case, random: &mut Random) {
    let mut bounds = vec![case.now - 5 * MINUTE, case.now + 5 * MINUTE, case.now];
    bounds.extend(case.certs.iter().chain(&case.roots).flat_map(|cert| [cert.from, cert.until]));
    let at = random.of(&bounds) + random.of(&[-1, 0, 1]);
    match random.below(8) {
        0 => case.now = at + random.of(&[-5 * MINUTE, 0, 5 * MINUTE]),
        1 => case.now += random.of(&[-DAY, -HOUR, HOUR, DAY, 40 * DAY, 4000 * DAY]),
        2 | 3 => {
            let life = random.of(&[DAY, 30 * DAY, 365 * DAY, 3650 * DAY]) + random.of(&[-1, 0, 1]);
            let cert = any(case, random);
            cert.until = cert.from + life;
        }
        4 | 5 => any(case, random).from = at,
        _ => any(case, random).until = at,
    }
    // What ends before it begins is no certificate that rcgen writes with sense; the year 1970 is its first.
    for cert in case.certs.iter_mut().chain(&mut case.roots) {
        cert.from = cert.from.max(0);
        cert.until = cert.until.max(0);
    }
    case.now = case.now.max(0);
}

fn names(case: &mut Case, random: &mut Random) {
    let place = if random.chance(80) { LEAF } else { random.below(3) };
    let cert = &mut case.certs[place];
    let (namespace, account) = (random.below(3), random.below(3));
    let uri = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", NAMESPACES[namespace], ACCOUNTS[account]);
    let dns = format!("{}.{}.{TRUST_DOMAIN}", ACCOUNTS[account], NAMESPACES[namespace]);
    match random.below(11) {
        0 => cert.uris.push(uri),
        1 => cert.dns.push(dns),
        2 => cert.uris.clear(),
        3 => cert.dns.clear(),
        4 => cert.address = true,
        5 => cert.mail = true,
        6 => cert.uris = vec![uri],
        7 => cert.dns = vec![dns],
        8 => identify(cert, &uri, &dns),
        9 => {
            let node = random.below(NODES.len());
            identify(cert, &node_uri(node), &format!("{}._node.{TRUST_DOMAIN}", NODES[node]));
        }
        _ => cert.uris = vec![bent(&uri, random)],
    }
}

/// What looks like an identity and is none.
fn bent(uri: &str, random: &mut Random) -> String {
    let rest = uri.strip_prefix("spiffe://").unwrap_or(uri);
    match random.below(9) {
        0 => uri.to_uppercase(),
        1 => format!("{uri}/"),
        2 => format!("{uri}?x"),
        3 => uri.replace("/sa/", "/sa/../sa/"),
        4 => uri.replace("/ns/", "//ns/"),
        5 => uri.replace(TRUST_DOMAIN, "other.example"),
        6 => format!("spiffe://{TRUST_DOMAIN}"),
        7 => format!("https://{rest}"),
        _ => uri.replace("/sa/", "/%73a/"),
    }
}

fn usages(cert: &mut Cert, random: &mut Random) {
    match random.below(9) {
        0 => cert.usages.clear(),
        1 => cert.usages.push(Usage::CrlSign),
        2 => cert.usages.push(Usage::KeyAgreement),
        3 => cert.usages = vec![random.of(&[Usage::DigitalSignature, Usage::KeyCertSign])],
        4 => cert.extended.clear(),
        5 => cert.extended = vec![random.of(&[Extended::Server, Extended::Client])],
        6 => cert.extended = vec![Extended::Client, Extended::Server],
        7 => cert.extended.push(random.of(&[Extended::CodeSigning, Extended::Any])),
        _ => {
            cert.basic = random.of(&[
                Basic::Absent,
                Basic::NoCa,
                Basic::Ca(None),
                Basic::Ca(Some(0)),
                Basic::Ca(Some(1)),
                Basic::Ca(Some(2)),
                Basic::Ca(Some(3)),
            ])
        }
    }
}

fn some_pattern(random: &mut Random) -> Pattern {
    match random.below(5) {
        0 => Pattern::All,
        1 => Pattern::Namespace(random.below(2)),
        _ => Pattern::Exact(random.below(2), random.below(2)),
    }
}

fn grants(case: &mut Case, random: &mut Random) {
    let place = if random.chance(10) { LEAF } else { random.of(&[NODE, ENROLLER]) };
    let replacement = |random: &mut Random| Grant {
        node: random.below(NODES.len()),
        epoch: random.below(5) as u64,
        accounts: vec![some_pattern(random)],
        services: vec![some_pattern(random)],
        record_key: random.chance(50),
        enroller: random.chance(50),
    };
    let cert = &mut case.certs[place];
    let Extension::Grant(grant) = &mut cert.grant else {
        cert.grant = Extension::Grant(replacement(random));
        return;
    };
    match random.below(10) {
        0 => cert.grant = Extension::Absent,
        1 => cert.grant = Extension::Garbage,
        2 => cert.grant = Extension::Grant(replacement(random)),
        3 => grant.node = random.below(NODES.len()),
        4 => grant.epoch = random.below(5) as u64,
        5 => grant.accounts = vec![some_pattern(random)],
        6 => grant.services = vec![some_pattern(random)],
        7 => grant.accounts.push(some_pattern(random)),
        8 => grant.record_key = !grant.record_key,
        _ => grant.enroller = !grant.enroller,
    }
}

fn redemptions(case: &mut Case, random: &mut Random) {
    let (key, node, epoch) = (random.below(KEYS), random.below(NODES.len()), random.below(5) as u64);
    match random.below(4) {
        0 => {
            let count = case.policy.grants.len();
            let redeemer = random.of(&[None, Some(0), Some(1), Some(2)]);
            if count > 0 {
                case.policy.grants[random.below(count)].redeemer = redeemer;
            }
            return;
        }
        1 => {
            let word = Redemption { by: key, shown: None, node, epoch, key, record_key: random.chance(50) };
            any(case, random).redemption = Some(word);
            return;
        }
        _ => {}
    }
    let Some(redemption) = &mut case.certs[NODE].redemption else { return };
    match random.below(7) {
        0 => redemption.by = key,
        1 => redemption.shown = None,
        2 => redemption.node = node,
        3 => redemption.epoch = epoch,
        4 => redemption.key = key,
        5 => redemption.record_key = false,
        _ => case.certs[NODE].redemption = None,
    }
}

fn policy(case: &mut Case, random: &mut Random) {
    let policy = &mut case.policy;
    let count = policy.grants.len();
    match random.below(10) {
        0 if count > 0 => drop(policy.grants.remove(random.below(count))),
        1 if count > 0 => policy.grants[random.below(count)].epoch = random.below(5) as u64,
        2 if count > 0 => policy.grants[random.below(count)].retired = true,
        3 if count > 0 => policy.grants[random.below(count)].enroller ^= true,
        4 if count > 0 => policy.grants[random.below(count)].services = vec![(random.below(2), random.below(2))],
        5 => policy.evicted.push((random.below(NODES.len()), random.below(5) as u64)),
        6 => policy.accounts.push((random.below(2), random.below(2))),
        7 => policy.keys.push(random.below(KEYS)),
        // The authority keeps one key of a name.
        _ => policy.known = vec![(random.below(NODES.len()), random.below(5) as u64, random.below(KEYS))],
    }
}

fn keys(case: &mut Case, random: &mut Random) {
    let key = if random.chance(30) { random.below(KEYS - P256_KEYS) + P256_KEYS } else { random.below(KEYS) };
    let name = random.of(&["root", "enroller", "node", "stranger"]);
    match random.below(5) {
        0 => any(case, random).signer = key,
        1 => any(case, random).key = key,
        2 => any(case, random).issuer = name,
        3 => any(case, random).subject = name,
        _ => {
            // A key of another sort that signs what it should: nothing but the sort is wrong.
            let place = random.of(&[NODE, ENROLLER]);
            case.certs[place].key = key;
            case.certs[place - 1].signer = key;
        }
    }
}

fn extensions(case: &mut Case, random: &mut Random) {
    let dns = case.certs[LEAF].dns.first().cloned().unwrap_or_else(|| TRUST_DOMAIN.to_owned());
    let half = dns.split_once('.').map_or(dns.clone(), |(_, rest)| rest.to_owned());
    let trees = [dns, half, format!("bank.{TRUST_DOMAIN}"), "other.example".to_owned(), TRUST_DOMAIN.to_owned()];
    let cert = any(case, random);
    match random.below(4) {
        0 => cert.unknown = Unknown::Harmless,
        1 => cert.unknown = Unknown::Critical,
        2 => cert.permitted = Some(vec![random.of(&trees)]),
        _ => cert.ballast = random.of(&[100, 13_000, 14_000, 16_000]),
    }
}

/// Certificates left out, doubled, in another order, with a root or a stranger among them; or other roots.
fn shown(case: &mut Case, random: &mut Random) {
    let count = case.shown.len();
    match random.below(9) {
        0 if count > 0 => drop(case.shown.remove(random.below(count))),
        1 if count > 1 => {
            let (one, other) = (random.below(count), random.below(count));
            case.shown.swap(one, other);
        }
        2 if count > 0 => case.shown.push(case.shown[random.below(count)]),
        3 => {
            case.certs.push(case.roots.first().cloned().unwrap_or_else(|| case.certs[ENROLLER].clone()));
            case.shown.push(case.certs.len() - 1);
        }
        4 => {
            // A further CA between the leaf and the node's own.
            let mut below = case.certs[NODE].clone();
            (below.subject, below.issuer, below.signer, below.key) = ("below", "node", case.certs[NODE].key, 5);
            (case.certs[LEAF].signer, case.certs[LEAF].issuer) = (5, "below");
            case.certs.push(below);
            case.shown.insert(1.min(count), case.certs.len() - 1);
        }
        5 => case.roots.clear(),
        6 => {
            // Trusted too, and signed the enroller, yet no root of ours.
            let mut other = case.roots.first().cloned().unwrap_or_else(|| case.certs[ENROLLER].clone());
            other.until = NOW - HOUR;
            case.roots.insert(0, other);
        }
        7 => {
            let leaf = &mut case.certs[LEAF];
            leaf.signer = leaf.key;
        }
        _ => case.certs[NODE].signer = case.roots.first().map_or(3, |root| root.key),
    }
}
