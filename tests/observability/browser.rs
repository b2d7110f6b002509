//! A real Chromium, led over the pipe of its DevTools protocol: no port is opened, and no driver is needed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

use serde_json::{Value, json};

/// Messages that wait to be read; the browser waits for room.
const EVENTS: usize = 10_000;
/// Pixels of the height of a whole page.
const TALLEST: f64 = 2_600.0;
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page; it ends with the value.
pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    sent: u64,
    /// What the page complained of: exceptions, and what its policy kept it from loading.
    complaints: Vec<String>,
    /// Events that were not looked at yet.
    events: Vec<Value>,
}

impl Browser {
    /// Starts one.
    pub(crate) fn start() -> Self {
        // The protocol is spoken over the descriptors 3 and 4.
        let line = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe \
                    --user-data-dir=\"$1\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null";
        let profile = tempfile::tempdir().expect("a directory").keep();
        let mut child = Command::new("bash")
            .args(["-c", line, "chromium"])
            .arg(&profile)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (told, messages) = sync_channel(EVENTS);
        std::thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).unwrap_or(Value::Null);
                if told.send(message).is_err() {
                    return;
                }
            }
        });
        let (session, complaints, events) = Default::default();
        let mut browser = Self { child, input, messages, session, sent: 0, complaints, events };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.call("Page.setLifecycleEventsEnabled", json!({"enabled": true}));
        browser
    }

    /// Calls a method of the protocol.
    ///
    /// # Panics
    /// The browser refuses it, or says nothing.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).expect("Chromium runs: apt-get install chromium");
        loop {
            let message = self.next(PATIENCE).unwrap_or_else(|| panic!("{method}: no answer; is Chromium installed?"));
            if message["id"] == json!(self.sent) {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
        }
    }

    fn next(&mut self, patience: Duration) -> Option<Value> {
        let message = match self.messages.recv_timeout(patience) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        };
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(message["params"]["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") => self.complaints.push(message["params"]["entry"].to_string()),
            Some(_) => self.events.push(message.clone()),
            None => {}
        }
        Some(message)
    }

    /// Opens a page and waits until all of it is there.
    pub(crate) fn open(&mut self, url: &str) {
        self.events.clear();
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        // Of this page: that of the one before may still be on its way.
        let is_loaded = |event: &Value| {
            let params = &event["params"];
            event["method"] == "Page.lifecycleEvent"
                && params["name"] == "load"
                && params["loaderId"] == opened["loaderId"]
        };
        while !self.events.iter().any(is_loaded) {
            self.next(PATIENCE).unwrap_or_else(|| panic!("{url} is not loaded"));
        }
    }

    /// What an expression comes to on the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let said = self.call("Runtime.evaluate", params);
        assert!(said.get("exceptionDetails").is_none(), "{expression}: {said}");
        said["result"]["value"].clone()
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str) {
        let code = if key == "Tab" { 9 } else { 13 };
        for kind in ["rawKeyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// A window of this size, in a scheme of colours.
    pub(crate) fn shape(&mut self, (width, height): (u32, u32), scheme: &str) {
        let mobile = width < 600;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", scheme);
    }

    /// A PNG of the whole page; of one that is very long, of what the window shows.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        use base64::Engine as _;
        let sizes = self.call("Page.getLayoutMetrics", json!({}));
        let whole = &sizes["cssContentSize"];
        let is_long = whole["height"].as_f64().expect("a height") > TALLEST;
        let height = if is_long { &sizes["cssLayoutViewport"]["clientHeight"] } else { &whole["height"] };
        let clip = json!({"x": 0, "y": 0, "width": whole["width"], "height": height, "scale": 1});
        let params = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let taken = self.call("Page.captureScreenshot", params);
        let text = taken["data"].as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
    }

    /// What pages complained of since this was asked last.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// Addresses that were asked for since the page was opened.
    pub(crate) fn asked(&self) -> Vec<String> {
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has taken the shell's place, and its helpers end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
