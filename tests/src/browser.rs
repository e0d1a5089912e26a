//! A browser without a window, driven as its developer tools would: a page is opened, asked and photographed.
//!
//! It speaks the DevTools protocol over two pipes, one JSON text after the other, each ended by a zero byte.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::wait::{SOON, wait};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page.
pub struct Browser {
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: String,
    number: u64,
    /// Addresses that the page has asked for.
    pub requests: Vec<String>,
    /// What went wrong in the page: exceptions, errors on its console, what its policy has blocked.
    pub complaints: Vec<String>,
}

impl Browser {
    /// Where the program is, by `$GANGWAY_CHROMIUM`. Without it its tests are skipped, but not by CI.
    pub fn program() -> Option<PathBuf> {
        let found = std::env::var_os("GANGWAY_CHROMIUM").map(PathBuf::from);
        if found.is_none() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GANGWAY_CHROMIUM is not set");
        }
        found
    }

    /// Starts it with an empty page of this size.
    pub async fn start(program: &Path, (width, height): (u32, u32)) -> Self {
        // Its pipes are numbers 3 and 4.
        let script = r#"exec 3<&0 4>&1 </dev/null >/dev/null; exec "$0" "$@""#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .args(["--remote-debugging-pipe", "--hide-scrollbars"])
            .arg(format!("--window-size={width},{height}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser can be started");
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let mut browser = Self {
            _child: child,
            to: to.expect("a pipe"),
            from: BufReader::new(from.expect("a pipe")),
            session: String::new(),
            number: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
        };
        let made = browser.call("Target.createTarget", &json!({"url": "about:blank"})).await;
        let target = json!({"targetId": made["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &target).await;
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({})).await;
        }
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", &size).await;
        browser
    }

    /// Opens an address.
    pub async fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", &json!({"url": url})).await;
        assert!(went["errorText"].is_null(), "{url}: {went}");
    }

    /// Says whether the person before it likes it dark.
    pub async fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", &media).await;
    }

    /// What an expression comes to in the page; of a promise what it resolves to.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub async fn until(&mut self, what: &str, expression: &str) {
        let browser = tokio::sync::Mutex::new(self);
        wait(what, SOON, async || {
            let said = browser.lock().await.eval(expression).await;
            if said == Value::Bool(true) { Ok(()) } else { Err(format!("{expression}: {said}")) }
        })
        .await;
    }

    /// Presses a key.
    pub async fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let pressed = json!({"type": kind, "key": key, "code": key});
            self.call("Input.dispatchKeyEvent", &pressed).await;
        }
    }

    /// Presses the mouse at a place.
    pub async fn click(&mut self, x: f64, y: f64) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let (button, count) = if kind == "mouseMoved" { ("none", 0) } else { ("left", 1) };
            let event =
                json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": count});
            self.call("Input.dispatchMouseEvent", &event).await;
        }
    }

    /// A picture of the page as PNG, in base64.
    pub async fn photograph(&mut self) -> String {
        let taken = self.call("Page.captureScreenshot", &json!({"format": "png"})).await;
        taken["data"].as_str().expect("a picture").to_owned()
    }

    /// Bytes of the page's own heap that are in use.
    pub async fn heap(&mut self) -> u64 {
        self.call("HeapProfiler.collectGarbage", &json!({})).await;
        let used = self.call("Runtime.getHeapUsage", &json!({})).await;
        // The protocol says it as a floating point number.
        used["usedSize"].as_f64().map_or(0, |bytes| bytes as u64)
    }

    /// Asks the browser, or its page once there is one.
    async fn call(&mut self, method: &str, params: &Value) -> Value {
        self.number += 1;
        let mut asked = json!({"id": self.number, "method": method, "params": params});
        if !self.session.is_empty() {
            asked["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{asked}\0").as_bytes()).await.expect("the browser lives");
        let number = self.number;
        let answered = timeout(PATIENCE, async {
            loop {
                let told = self.hear().await;
                if told["id"] == number {
                    break told;
                }
                self.take(&told);
            }
        });
        let mut answer = answered.await.unwrap_or_else(|_| unreachable!("no answer to {method}"));
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    async fn hear(&mut self) -> Value {
        let mut text = Vec::new();
        self.from.read_until(0, &mut text).await.expect("the browser lives");
        assert_eq!(text.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// What it tells unasked.
    fn take(&mut self, told: &Value) {
        let params = &told["params"];
        match told["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = params["request"]["url"].as_str();
                self.requests.push(url.unwrap_or_default().to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params.to_string()),
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => {
                self.complaints.push(params.to_string());
            }
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                self.complaints.push(params["entry"].to_string());
            }
            _ => {}
        }
    }
}
