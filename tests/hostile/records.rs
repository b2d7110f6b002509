//! Records that a certified member signs, keeps or makes up (A92-A95): two truths, yesterday's, tomorrow's, and too many.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use certs::codec;
use harness::{
    cluster::{Plan, Service},
    eventually,
};
use membership::{
    body::{Body, Status},
    message::Message,
    record::{Section, SignedRecord, next_generation},
};
use serde_json::Value;

use crate::{
    gossip::{Ending, HONEST, LIAR, MEMORY, Scene, node, scene, served},
    liar::Liar,
    strangers::wall,
};

#[test]
fn a92_who_signs_two_truths_under_one_number_is_quarantined_on_all_nodes_also_on_those_that_join_later() {
    let mut scene = scene();
    let sequence = scene.liar.sequence() + 1;
    for (at, names) in [("web", &["liar"][..]), ("reviews", &[])] {
        let (section, body) = served(names).parts().expect("small").swap_remove(0);
        let record = scene.liar.signed(&node(LIAR), scene.liar.generation, section, sequence, body);
        scene.liar.tell_one(at, &Message::Records(vec![record]));
    }
    for at in HONEST {
        eventually("it counts for nothing", || scene.sees(at, LIAR, "quarantined"));
        eventually("its links are closed", || {
            if scene.liar.is_linked(at) { Err(at) } else { Ok(()) }.map_err(str::to_owned)
        });
        scene.serves(at, "shop/liar", 0).expect("nothing is served there");
        eventually("it is told of", || {
            let events = scene.ask(at, "/v1/events?here=true");
            let told = |event: &Value| event["kind"] == "equivocation" && event["subject"] == LIAR;
            let found = events.as_array().expect("a list").iter().any(told);
            if found { Ok(()) } else { Err(events.to_string()) }
        });
    }
    scene.unharmed();
    // It may say what it likes, to whomever: nobody takes it back, and who joins later learns of it.
    scene.cluster.join("late", &Plan::with([Service::client("shop/late")]));
    scene.cluster.run("late");
    eventually("the late one is a member", || scene.sees("web", "late", "alive"));
    eventually("the late one sees all", || scene.sees("late", "ratings", "alive"));
    for at in ["web", "late"] {
        scene.liar.link(&scene.cluster, at);
        scene.liar.introduce(served(&["liar"]));
        eventually("it is shown out", || {
            if scene.liar.is_linked(at) { Err(at) } else { Ok(()) }.map_err(str::to_owned)
        });
        scene.sees(at, LIAR, "quarantined").expect("it stays so");
    }
    scene.unharmed();
    // A node that starts knows it from its disk, and says so.
    scene.cluster.kill("web");
    for at in ["reviews", "ratings", "late"] {
        eventually("it is dead", || scene.sees(at, "web", "dead"));
    }
    scene.cluster.run("web");
    for (at, earlier) in [("reviews", false), ("web", true)] {
        let problem = eventually("people are told", || problem(&scene, at, "node_quarantined"));
        assert!(problem["message"].to_string().contains(LIAR), "{problem}");
        let status = scene.ask(at, "/v1/status").to_string();
        assert!(!status.contains("members_missing"), "it is not one that did not join: {status}");
        let shown = scene.cluster.on(at, &["members", LIAR]).expect_code(0).out;
        assert!(shown.contains("two different records") && shown.contains("skein invite liar --replace"), "{shown}");
        let events = scene.ask(at, "/v1/events?here=true").to_string();
        assert_eq!(events.contains("before this node started; it is still ignored"), earlier, "{events}");
        assert!(!events.contains("liar is no member any more"), "{events}");
    }
    scene.cluster.invite(LIAR, &Plan::with([Service::version("shop/liar", "v1")]), &["--replace"]);
    for at in ["web", "reviews"] {
        eventually("it is invited, and ignored no more", || match problem(&scene, at, "node_quarantined") {
            Err(_) => Ok(()),
            Ok(problem) => Err(problem.to_string()),
        });
    }
}

/// The problem of this code at a node.
fn problem(scene: &Scene, at: &str, code: &str) -> Result<Value, String> {
    let status = scene.ask(at, "/v1/status");
    let found = status["problems"].as_array().and_then(|all| all.iter().find(|problem| problem["code"] == code));
    found.cloned().ok_or_else(|| status.to_string())
}

#[test]
fn a92_who_is_quarantined_learns_it_from_those_that_ignore_it() {
    let scene = scene();
    // What a snapshot of its machine would sign that was put back.
    let mut copy = Liar::new(&scene.cluster, "ratings");
    copy.link(&scene.cluster, "web");
    let generation = scene.generation("ratings");
    let truths = [Status::Up, Status::Draining]
        .map(|status| copy.signed(&node("ratings"), generation, Section::STATUS, 1_000_000, codec::encode(&status)));
    copy.tell_one("web", &Message::Records(truths.into()));
    for at in ["web", "reviews"] {
        eventually("it counts for nothing", || scene.sees(at, "ratings", "quarantined"));
    }
    let told = eventually("the node itself says so", || {
        let told = problem(&scene, "ratings", "quarantined")?;
        // One after the other ends its link.
        let by = ["web", "reviews"].iter().all(|by| told["message"].to_string().contains(by));
        if by { Ok(told) } else { Err(told.to_string()) }
    });
    assert!(told["hint"].to_string().contains("skein invite ratings --replace"), "{told}");
}

#[test]
fn a93_what_a_node_signed_yesterday_is_ignored() {
    let mut scene = scene();
    scene.add();
    // All that the node has said so far, as it told the liar.
    let mut yesterday = Vec::new();
    eventually("the liar was told", || {
        for message in scene.liar.heard("reviews") {
            if let Message::Records(records) = message {
                let of =
                    |bytes: &Vec<u8>| SignedRecord::decode(bytes).is_ok_and(|record| *record.node() == node("reviews"));
                yesterday.extend(records.into_iter().filter(of));
            }
        }
        let services = yesterday.iter().filter_map(|bytes| SignedRecord::decode(bytes).ok());
        let told = services.filter(|record| record.section() == Section::SERVICES).count();
        if told >= 2 { Ok(()) } else { Err(format!("{told} of two")) }
    });
    scene.remove();
    let replay = |scene: &Scene| {
        for record in &yesterday {
            scene.liar.tell(&Message::Records(vec![record.clone()]));
        }
        scene.liar.tell(&Message::Records(yesterday.clone()));
    };
    replay(&scene);
    scene.carriers_learn();
    scene.unharmed();
    HONEST.iter().for_each(|at| scene.serves(at, "shop/extra", 0).expect("it was withdrawn"));
    // In its next run as well.
    scene.cluster.kill("reviews");
    for at in ["web", "ratings"] {
        eventually("it is dead", || scene.sees(at, "reviews", "dead"));
    }
    scene.cluster.run("reviews");
    for at in ["web", "ratings"] {
        eventually("it is back", || scene.sees(at, "reviews", "alive"));
    }
    scene.cluster.wait_endpoints("shop/reviews", 1);
    replay(&scene);
    for at in ["web", "ratings"] {
        // What is said after it has arrived: so had the replay.
        let sequence = scene.liar.publish(&served(&["liar"]));
        scene.liar.tell_one(at, &Message::Records(sequence));
        eventually("the liar's next word is heard", || scene.serves(at, "shop/liar", 1));
        scene.serves(at, "shop/extra", 0).expect("not what was withdrawn");
        eventually("it runs", || scene.sees(at, "reviews", "alive"));
    }
}

#[test]
fn a94_a_generation_from_the_future_harms_its_author_alone() {
    let mut scene = scene();
    let day = 86_400_000;
    // Beyond what any clock may be wrong by it is refused whole.
    let far = next_generation(0, 0, wall() + 400 * day, 0);
    let left = codec::encode(&Status::Left);
    let lie = || {
        for generation in [far, u64::MAX] {
            let record = scene.liar.signed(&node(LIAR), generation, Section::STATUS, 1, left.clone());
            scene.liar.tell(&Message::Records(vec![record]));
        }
    };
    lie();
    scene.blamed(lie);
    for at in HONEST {
        eventually("it is not believed", || scene.sees(at, LIAR, "alive"));
    }
    // Of others it is a forgery at any height.
    for of in HONEST {
        let ahead = next_generation(0, 0, wall() + 30 * day, 0);
        let record = scene.liar.signed(&node(of), ahead, Section::STATUS, 1, left.clone());
        scene.liar.tell(&Message::Records(vec![record]));
    }
    // Within it, it is its new run: what it says in the old one counts no more.
    let near = next_generation(0, 0, wall() + 30 * day, 0);
    let record = scene.liar.signed(&node(LIAR), near, Section::STATUS, 1, left);
    scene.liar.tell(&Message::Records(vec![record]));
    for at in HONEST {
        eventually("it left, by its own word", || scene.sees(at, LIAR, "left"));
    }
    let back = scene.liar.publish(&Body::Status(Status::Up));
    scene.liar.tell(&Message::Records(back));
    scene.liar.skip_to(1_000);
    std::thread::sleep(Duration::from_millis(300));
    HONEST.iter().for_each(|at| scene.sees(at, LIAR, "left").expect("until it goes on above that"));
    scene.unharmed();
}

#[test]
fn a95_a_flood_of_updates_delays_nobody_elses_word() {
    let mut scene = scene();
    let before = scene.memory();
    // Ten thousand a second, signed beforehand.
    let flood: Vec<Message> = (0..200)
        .map(|_| {
            let records = (0..100).flat_map(|_| scene.liar.publish(&Body::Status(Status::Up)).into_iter().take(1));
            Message::Records(records.collect())
        })
        .collect();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for message in flood.iter().cycle() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                scene.liar.tell(message);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let _ending = Ending(&ended);
        for _ in 0..3 {
            scene.add();
            scene.remove();
        }
    });
    scene.unharmed();
    // Each node takes, and passes on, of one member what one member may say.
    let told = ["web", "ratings"].map(|at| {
        let messages = scene.liar.heard(at);
        let count = |message: &Message| if let Message::Records(records) = message { records.len() } else { 0 };
        messages.iter().map(count).sum::<usize>()
    });
    assert!(told.iter().all(|records| *records < 5_000), "{told:?} records came back");
    let after = scene.memory();
    // Each has queues of its own for what comes in.
    assert!(after < before + 3 * MEMORY, "from {before} to {after} bytes");
}
