//! A headless Chromium, driven by the DevTools protocol over a pair of pipes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Everything that is waited for happens within this.
const LIMIT: Duration = Duration::from_secs(60);

/// What a browser says to a question about a page that is being replaced by another one.
const GONE: [&str; 3] = [
    "Inspected target navigated or closed",
    "Execution context was destroyed.",
    "Cannot find default execution context",
];

pub(crate) struct Browser {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<Value>,
    session: String,
    number: u64,
    complaints: Vec<String>,
    asked: Vec<String>,
    /// Removed when the browser has ended.
    _profile: TempDir,
}

/// Chromium by one of its names.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|p| p.is_file())
}

impl Browser {
    pub(crate) fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut flags = vec![
            "--headless".to_owned(),
            "--remote-debugging-pipe".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let quiet = [
            "disable-gpu",
            "disable-quic",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "disable-dev-shm-usage",
        ];
        flags.extend(quiet.map(|flag| format!("--{flag}")));
        if nix::unistd::geteuid().is_root() {
            flags.push("--no-sandbox".to_owned());
        }
        // It reads orders from descriptor 3 and answers on 4.
        let mut child = Command::new("sh")
            .args([
                "-c",
                r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#,
            ])
            .arg(program)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take();
        let (sender, answers) = channel();
        let mut pipe = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while pipe
                .read_until(0, &mut message)
                .is_ok_and(|length| length > 0)
            {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else {
                    return;
                };
                if sender.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            orders,
            answers,
            session: String::new(),
            number: 0,
            complaints: Vec::new(),
            asked: Vec::new(),
            _profile: profile,
        };
        let target =
            browser.order("Target.createTarget", json!({ "url": "about:blank" }))["targetId"]
                .take();
        let flat = json!({ "targetId": target, "flatten": true });
        let session = browser.order("Target.attachToTarget", flat)["sessionId"].take();
        browser.session = session.as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.order(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    pub(crate) fn open(&mut self, url: &str) {
        // The page before must not answer for the new one.
        self.order("Page.navigate", json!({ "url": "about:blank" }));
        self.until("location.href === 'about:blank'");
        self.order("Page.navigate", json!({ "url": url }));
        self.until(&format!(
            "location.href === '{url}' && document.readyState === 'complete'"
        ));
    }

    /// The size of the screen, and `light` or `dark`.
    pub(crate) fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.order("Emulation.setDeviceMetricsOverride", screen);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.order(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    /// For somebody who wants nothing to move.
    pub(crate) fn calm(&mut self) {
        let features = json!([{ "name": "prefers-reduced-motion", "value": "reduce" }]);
        self.order(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    pub(crate) fn key(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "End" => 35,
            _ => 39,
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if key == "Enter" && kind == "keyDown" {
                event["text"] = json!("\r");
            }
            self.order("Input.dispatchKeyEvent", event);
        }
    }

    /// Waits for a condition in the page.
    pub(crate) fn until(&mut self, condition: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.is(&format!(
            "(() => {{ try {{ return {condition} }} catch {{ return false }} }})()"
        )) {
            if Instant::now() > deadline {
                let page = self.value("document.body.innerText");
                panic!(
                    "never came true: {condition}\nthe page says: {page}\nand: {:?}",
                    self.complaints
                );
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    pub(crate) fn is(&mut self, script: &str) -> bool {
        self.evaluate(script) == Value::Bool(true)
    }

    pub(crate) fn number(&mut self, script: &str) -> f64 {
        self.evaluate(script).as_f64().unwrap()
    }

    pub(crate) fn value(&mut self, script: &str) -> String {
        self.evaluate(script)
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn text(&mut self, selector: &str) -> String {
        self.value(&format!("document.querySelector('{selector}').textContent"))
    }

    /// Errors of the script, refusals by the policy, failed loads.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// The addresses that the browser has asked.
    pub(crate) fn asked(&self) -> &[String] {
        &self.asked
    }

    fn evaluate(&mut self, script: &str) -> Value {
        let params = json!({ "expression": script, "returnByValue": true });
        match self.try_order("Runtime.evaluate", &params) {
            Ok(mut answer) => answer["result"]["value"].take(),
            // The page goes to another one, and takes what was asked of it along.
            Err(error) if GONE.iter().any(|gone| error["message"] == *gone) => Value::Null,
            Err(error) => panic!("{script}: {error}"),
        }
    }

    fn order(&mut self, method: &str, params: impl Into<Value>) -> Value {
        let answer = self.try_order(method, &params.into());
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_order(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        self.number += 1;
        let mut order = json!({ "id": self.number, "method": method, "params": params });
        if !self.session.is_empty() {
            order["sessionId"] = json!(self.session);
        }
        let orders = self.orders.as_mut().unwrap();
        write!(orders, "{order}\0").unwrap();
        orders.flush().unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut answer = match self
                .answers
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the browser did not answer {method} in time")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the browser ended before it answered {method}")
                }
            };
            if answer["id"] == self.number {
                return match answer["error"].take() {
                    Value::Null => Ok(answer["result"].take()),
                    error => Err(error),
                };
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        if event["method"] == "Network.requestWillBeSent" {
            let url = event["params"]["request"]["url"].as_str();
            self.asked.extend(url.map(str::to_owned));
        }
        let said = match event["method"].as_str() {
            Some("Log.entryAdded") => &event["params"]["entry"]["text"],
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            _ => return,
        };
        self.complaints.push(said.to_string());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when nobody can give it orders any more.
        self.orders = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
