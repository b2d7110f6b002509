//! A node that starts again, seen by the callers beside it.

use std::time::{Duration, Instant};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http, now,
    process::Running,
};

use crate::skein;

/// The first answer that somebody gets who asks again and again while the node starts.
fn first_answer(outbound: std::net::SocketAddr, started: Instant) -> u16 {
    loop {
        match http::get(outbound, "cart", "/") {
            Ok(answer) => return answer.status,
            Err(error) if started.elapsed() > PATIENCE => panic!("no answer: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// As after a power cut: nobody is there to ask.
#[test]
fn ten_nodes_that_start_again_at_once_see_each_other_and_serve() {
    let names: Vec<String> = (0..10).map(|number| format!("n{number}")).collect();
    let plan = |name: &String| match name.as_str() {
        "n9" => Plan::with([Service::version("shop/cart", "v1")]),
        _ => Plan::with([Service::client("shop/web")]),
    };
    let plans: Vec<(&str, Plan)> = names.iter().map(|name| (name.as_str(), plan(name))).collect();
    let mut cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    names.iter().for_each(|name| cluster.kill(name));
    let starting: Vec<_> = names
        .iter()
        .map(|name| {
            let log = std::fs::File::create(cluster.node(name).dir.join("log")).expect("it is ours");
            let mut command = cluster.command(name);
            command.arg("run").stderr(log);
            std::thread::spawn(move || Running::start(command, PATIENCE))
        })
        .collect();
    for (name, started) in names.iter().zip(starting) {
        let started = started.join().expect("no panic");
        let running = started.unwrap_or_else(|error| panic!("{name}: {error}\n{}", cluster.log(name)));
        cluster.node_mut(name).running = Some(running);
    }
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    for name in &names[..9] {
        let answer = http::get(cluster.node(name).outbound(), "cart", "/").expect("an answer");
        assert_eq!(answer.status, 200, "from {name}: {answer:?}");
    }
    let status = cluster.json("n0", &["status"]);
    assert_eq!((&status["members"]["seen"], &status["members"]["expected"]), (&10.into(), &10.into()), "{status}");
}

/// Under a supervisor that starts again whatever ended, two copies of one node would end each other for ever: the one that gives way says
/// so by an exit code of its own.
#[test]
fn of_two_copies_of_a_node_one_ends_with_a_code_that_keeps_it_stopped() {
    let plans = ["n0", "n1"].map(|name| (name, Plan::with([Service::client("shop/web")])));
    let mut cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.terminate("n1");
    cluster.prepare_only("copy", &plans[1].1);
    let (from, to) = (cluster.node("n1").dir.join("data"), cluster.node("copy").dir.join("data"));
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().expect("cp");
    assert!(copied.success());
    let file = cluster.node("copy").config();
    let text = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(file, text.replace("name = \"copy\"", "name = \"n1\"")).expect("it is ours");
    cluster.run("n1");
    cluster.run("copy");
    let mut ended = Vec::new();
    eventually("one of them ends", || {
        for name in ["n1", "copy"] {
            let status = cluster.node_mut(name).running.as_mut().and_then(|running| running.ended());
            ended.extend(status.map(|status| (name, status)));
        }
        if ended.is_empty() { Err("both run".to_owned()) } else { Ok(()) }
    });
    let [(name, status)] = ended[..] else { panic!("{ended:?}") };
    let log = cluster.log(name);
    assert_eq!(status.code(), Some(6), "{name}: {log}");
    assert!(log.contains("another process runs with this node's identity"), "{log}");
}

/// Before it knew the services beside it, a starting node answered 404.
#[test]
fn the_first_answer_of_a_starting_node_is_the_applications() {
    let mut cluster = Cluster::start(skein(), &[("n0", Plan::with([Service::version("shop/cart", "v1")]))]);
    cluster.wait_endpoints("shop/cart", 1);
    let outbound = cluster.node("n0").outbound();
    for _ in 0..3 {
        cluster.terminate("n0");
        std::fs::write(cluster.node("n0").dir.join("log"), "").expect("it is ours");
        let asking = std::thread::spawn(move || first_answer(outbound, now()));
        cluster.run("n0");
        let status = asking.join().expect("an answer");
        // On a busy machine it may have waited for as long as it does.
        let late = cluster.log("n0").contains("not every service beside this node");
        assert!(status == 200 || late, "{status}: {}", cluster.log("n0"));
    }
}

/// Ends the node once its application has the request, whose answer takes so long; gives what the caller gets.
fn ended_within_a_request(cluster: &mut Cluster, takes: Duration) -> Result<u16, String> {
    let backend = &cluster.node("n0").backends[0];
    backend.delay(takes);
    let (outbound, before) = (cluster.node("n0").outbound(), backend.arrivals().len());
    let asking = std::thread::spawn(move || http::get(outbound, "cart", "/slow").map(|answer| answer.status));
    eventually("the request arrives", || {
        let arrived = cluster.node("n0").backends[0].arrivals().len();
        if arrived > before { Ok(()) } else { Err(format!("{arrived} arrived")) }
    });
    let ended = cluster.terminate("n0").expect("it runs");
    assert!(ended.success(), "{ended}");
    asking.join().expect("it ends")
}

#[test]
fn a_stopping_node_finishes_what_it_began_and_cuts_what_does_not_end() {
    let mut cluster = Cluster::start(skein(), &[("n0", Plan::with([Service::version("shop/cart", "v1")]))]);
    cluster.wait_endpoints("shop/cart", 1);
    assert_eq!(ended_within_a_request(&mut cluster, Duration::from_millis(700)), Ok(200));
    cluster.node("n0").backends[0].delay(Duration::ZERO);
    let file = cluster.node("n0").config();
    let text = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(file, text.replace("[runtime]\n", "[runtime]\ndrain = \"1s\"\n")).expect("it is ours");
    cluster.run("n0");
    cluster.wait_endpoints("shop/cart", 1);
    // Longer than `[runtime] drain` by far: the node does not wait for it, and its caller gets no half of an answer.
    let cut = ended_within_a_request(&mut cluster, Duration::from_secs(120));
    assert!(cut.is_err(), "{cut:?}");
    let log = cluster.log("n0");
    assert!(log.contains("connections were cut at the end of the drain"), "{log}");
}
