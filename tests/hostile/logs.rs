//! Logs and terminals under attack: values that would forge lines (A110), and a log that takes no line (A114).

use std::io::{Read as _, Write as _};

use harness::{
    PATIENCE,
    cluster::Cluster,
    eventually,
    http::{self, Connection},
    process::Skein,
};

use crate::pair;

fn log_on(cluster: &Cluster, encoding: &str) {
    let text = format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{accessLogFile: /dev/stderr, accessLogEncoding: {encoding}}}\n"
    );
    cluster.push("web", &text, &["--wait", "all"]).expect_code(0);
}

#[test]
fn a110_no_value_begins_a_line_or_reaches_a_terminal() {
    let cluster = pair();
    for encoding in ["TEXT", "JSON"] {
        log_on(&cluster, encoding);
        let mut connection = Connection::open(cluster.node("web").outbound()).expect("the proxy listens");
        let path = format!("/{encoding}%0d%0a%1b[31m");
        let head = format!("GET {path} HTTP/1.1\r\nHost: reviews\r\nUser-Agent: a\" 200 \\ [forged]");
        connection.send(&[head.as_bytes(), b"\x9b31m\xc2\x9b\r\n\r\n"].concat()).expect("it takes bytes");
        assert_eq!(connection.answer(false).expect("an answer").status, 200);
        eventually("the line is there", || {
            let log = std::fs::read(cluster.node("reviews").dir.join("log")).map_err(|error| error.to_string())?;
            let line = log.split(|byte| *byte == b'\n').find(|line| {
                String::from_utf8_lossy(line).contains(&path) && String::from_utf8_lossy(line).contains("forged")
            });
            let line = line.ok_or("no such line")?;
            assert!(line.is_ascii(), "{:?}", String::from_utf8_lossy(line));
            assert!(!line.iter().any(u8::is_ascii_control), "{:?}", String::from_utf8_lossy(line));
            let text = String::from_utf8_lossy(line).into_owned();
            assert!(text.contains("a\\\" 200 \\\\ [forged]"), "quotes end no value: {text}");
            Ok(())
        });
    }
}

/// A node that answers everything with what would move the cursor of whoever asks.
#[test]
fn a110_no_word_of_a_node_reaches_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let evil = r"\u001b]0;owned\u0007\u009b2J\r";
            let body = format!(r#"{{"error":{{"code":"c{evil}","message":"m{evil}","hint":"h{evil}"}}}}"#);
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked);
            let head =
                format!("HTTP/1.1 500 no\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let node = format!("unix:{}", socket.display());
    for words in [&["status"][..], &["status", "-o", "json"], &["policy", "log"], &["members", "--watch"]] {
        let said =
            skein.command().args(words).args(["--node", &node]).env("HOME", folder.path()).output().expect("it starts");
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(text.contains("owned"), "{words:?}: {text:?}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{words:?}: {text:?}");
    }
}

#[test]
fn a114_a_log_that_takes_nothing_keeps_nobody_waiting() {
    let mut cluster = pair();
    log_on(&cluster, "TEXT");
    cluster.terminate("reviews");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    cluster.try_run_into("reviews", full).expect("it runs");
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    let mut connection = Connection::open(cluster.node("web").outbound()).expect("the proxy listens");
    for _ in 0..500 {
        let answer = connection.request("GET", "reviews", "/", &[], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let admin = cluster.node("reviews").address("admin");
    eventually("the lost lines are counted", || {
        let metrics = http::get(admin, "localhost", "/metrics")?.text();
        let lost = metrics.lines().find_map(|line| line.strip_prefix("skein_access_log_dropped_total "));
        if lost == Some("500") { Ok(()) } else { Err(format!("{lost:?} lost")) }
    });
}
