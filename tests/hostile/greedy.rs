//! A member that wants more than its share of a node: links, and answers to what it asks on and on.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use certs::{
    codec,
    sign::{Digest, Signed, SigningKey},
};
use harness::{eventually, now};
use membership::{
    body::{Body, Policy},
    message::Message,
};
use node::agent::wire::{BUCKET, BUCKETS, Buckets, FETCH, Fetched, Ids};
use policy::{
    DocumentId, Kind,
    changeset::{self, Change, Changeset, ChangesetId, Packed},
};

use crate::{
    gossip::{Ending, LIAR, Scene, scene},
    liar::domain,
    strangers::wall,
};

/// What a node asks to measure a path: the answer is empty.
const PING: u16 = 7;
/// Questions that wait for their answers: fewer than a link takes.
const WAITING: usize = 200;
/// Many more than anybody has to ask.
const WITHOUT_END: usize = 60_000;
/// Short answers that a peer gets in a second, and at once.
const SHARE: (usize, usize) = (2_048, 16_384);
/// Links that one tries to have, and those that it may have.
const LINKS: (usize, usize) = (6, 3);

#[test]
fn who_never_stops_talking_keeps_no_node_from_seeing_a_death() {
    let mut scene = scene();
    // As many links as one may have: there is always one over which something comes.
    scene.liar.link_again(&scene.cluster, "web", LINKS.1 - 1);
    let ended = AtomicBool::new(false);
    let Scene { cluster, liar } = &mut scene;
    let liar = &*liar;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                // An answer to what was never asked: it costs its reader least.
                liar.tell_without_pause("web", &Message::Ack(0), 1_000);
                std::thread::yield_now();
            }
        });
        let _ending = Ending(&ended);
        cluster.kill("reviews");
        eventually("it is dead while the liar talks", || {
            let members = cluster.json("web", &["members"]);
            let row = members.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "reviews"));
            if row.is_some_and(|row| row["state"] == "dead") { Ok(()) } else { Err(members.to_string()) }
        });
    });
    scene.cluster.run("reviews");
    scene.unharmed();
}

#[test]
fn who_asks_on_and_on_is_refused_and_answered_again_once_it_waits() {
    let mut scene = scene();
    let (began, mut replies, mut refusals, mut asked) = (now(), 0, 0, 0);
    while refusals == 0 && asked < WITHOUT_END {
        if !scene.liar.is_linked("web") {
            // On a machine that is short of time it was late to answer.
            scene.liar.link(&scene.cluster, "web");
        }
        let before = scene.liar.answers("web");
        scene.liar.ask("web", PING, WAITING);
        asked += WAITING;
        let answered = eventually("all are answered", || {
            let after = scene.liar.answers("web");
            let came = (after.0 - before.0, after.1 - before.1);
            let over = came.0 + came.1 >= WAITING || !scene.liar.is_linked("web");
            if over { Ok(came) } else { Err(format!("{came:?}")) }
        });
        (replies, refusals) = (replies + answered.0, refusals + answered.1);
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("short") + 1;
    let most = SHARE.1 + SHARE.0 * seconds + WAITING;
    assert!(replies <= most, "{replies} replies of {asked}, {most} at most");
    scene.unharmed();
    eventually("it is answered again", || {
        if !scene.liar.is_linked("web") {
            scene.liar.link(&scene.cluster, "web");
        }
        let before = scene.liar.answers("web").0;
        scene.liar.ask("web", PING, 1);
        std::thread::sleep(Duration::from_millis(50));
        if scene.liar.answers("web").0 > before { Ok(()) } else { Err("refused".to_owned()) }
    });
}

#[test]
fn who_announces_what_it_does_not_give_is_asked_for_it_ever_more_seldom() {
    let mut scene = scene();
    let nothing = Digest::of(b"nobody has it");
    for (kind, reply) in [
        (FETCH, codec::encode(&Fetched { changesets: Vec::new() })),
        (BUCKETS, codec::encode(&Buckets { digests: vec![nothing; 256] })),
        (BUCKET, codec::encode(&Ids { ids: vec![nothing] })),
    ] {
        scene.liar.reply("web", kind, reply);
    }
    let policy = Policy { digest: nothing, count: 1, recent: vec![nothing], applied: nothing, audit: (0, nothing) };
    let records = scene.liar.publish(&Body::Policy(policy));
    scene.liar.tell_one("web", &Message::Records(records));
    eventually("it is asked, and asked again", || {
        let asked = scene.liar.asked("web", FETCH);
        if asked >= 6 { Ok(()) } else { Err(format!("{asked} times")) }
    });
    let before = scene.liar.asked("web", FETCH);
    std::thread::sleep(Duration::from_secs(5));
    let asked = scene.liar.asked("web", FETCH) - before;
    assert!(asked < 20, "{asked} times in five seconds");
    // What others push arrives all the same.
    scene.unharmed();
}

/// So it is with a peer of a later build, too: what this one refuses for good, and what replaces that.
#[test]
fn what_refers_to_what_is_refused_is_not_asked_for_on_and_on() {
    let mut scene = scene();
    let key = SigningKey::generate();
    let mut refused = Signed::new(changeset::KIND, b"no form of this build".to_vec());
    refused.add(&key);
    let (below, nothing) = (refused.id(), Digest::of(b"nobody has it"));
    let above = Changeset {
        trust_domain: domain(),
        role_set: 1,
        issued_at: wall(),
        message: String::new(),
        confirm_by: None,
        nonce: [7; 16],
        changes: vec![Change {
            document: DocumentId::new(Kind::VirtualService, "shop", "cart"),
            content: None,
            replaces: vec![ChangesetId(below)],
        }],
    };
    let above = above.sign(&[&key]);
    let ids = vec![below, above.id()];
    let refused = Packed { signed: refused, bodies: Vec::new() };
    let changesets = [&refused, &above].map(changeset::encode).to_vec();
    for (kind, reply) in [
        (FETCH, codec::encode(&Fetched { changesets })),
        (BUCKETS, codec::encode(&Buckets { digests: vec![nothing; 256] })),
        (BUCKET, codec::encode(&Ids { ids: ids.clone() })),
    ] {
        scene.liar.reply("web", kind, reply);
    }
    let policy = Policy { digest: nothing, count: 2, recent: ids, applied: nothing, audit: (0, nothing) };
    let records = scene.liar.publish(&Body::Policy(policy));
    scene.liar.tell_one("web", &Message::Records(records));
    eventually("it is asked, and asked again", || {
        let asked = scene.liar.asked("web", FETCH);
        if asked >= 4 { Ok(()) } else { Err(format!("{asked} times")) }
    });
    std::thread::sleep(Duration::from_secs(3));
    let asked = scene.liar.asked("web", FETCH);
    assert!(asked < 64, "{asked} times: one comparison made 256 of it");
    scene.unharmed();
}

#[test]
fn a_member_has_few_links_with_a_node_and_the_newest_of_them_stands() {
    let mut scene = scene();
    let (many, few) = LINKS;
    scene.liar.link_again(&scene.cluster, "web", many);
    let standing = eventually("most of them end", || {
        let standing = scene.liar.linked_again("web", many);
        if standing.len() <= few { Ok(standing) } else { Err(format!("{standing:?}")) }
    });
    assert!(standing.contains(&(many - 1)), "{standing:?}");
    eventually("it is as alive as before", || scene.sees("web", LIAR, "alive"));
    scene.unharmed();
}
