//! HTTP by hand: one question on one connection, for what a person would ask with curl.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Status and body of a GET on loopback; `None` where nobody answers.
pub async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    ask(port, "GET", path, "", "").await
}

/// The same of a GET by somebody who reads this kind of content.
pub async fn get_as(port: u16, path: &str, kind: &str) -> Option<(u16, String)> {
    ask(port, "GET", path, &format!("Accept: {kind}\r\n"), "").await
}

/// The same of a PUT.
pub async fn put(port: u16, path: &str, body: &str) -> Option<(u16, String)> {
    ask(port, "PUT", path, "", body).await
}

async fn ask(port: u16, verb: &str, path: &str, more: &str, body: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let length = body.len();
        let question = format!(
            "{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(question.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, body.to_owned()))
    };
    timeout(Duration::from_secs(5), exchange).await.ok().flatten()
}

/// A port that was free a moment ago, from below the range that outgoing connections take theirs
/// from: a port that is let go for a while can be had again.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 400).expect("less than 400") * 10;
    let tries = (0..4000).map(|_| 15_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 4000);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    tries.into_iter().find(free).expect("a free port")
}

/// A server that answers every POST with the same status, and tells their paths and bodies.
pub struct Hook {
    /// Where it listens.
    pub port: u16,
    heard: mpsc::UnboundedReceiver<(String, String)>,
    task: tokio::task::JoinHandle<()>,
}

impl Hook {
    /// Listens on loopback until it is dropped.
    pub async fn listen(status: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let (tell, heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = Vec::new();
                let mut chunk = [0; 1024];
                // Headers and a body as long as they say.
                while let Ok(n @ 1..) = stream.read(&mut chunk).await {
                    question.extend_from_slice(&chunk[..n]);
                    if whole(&question).is_some() {
                        break;
                    }
                }
                let Some((path, body)) = whole(&question) else { continue };
                let answer = format!(
                    "HTTP/1.1 {status} Fine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                // A listener that has gone, or a client that has, is no matter of ours.
                let _ = tell.send((path, body));
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { port, heard, task }
    }

    /// The path and body of the next POST.
    pub async fn heard(&mut self, within: Duration) -> (String, String) {
        let heard = timeout(within, self.heard.recv()).await;
        heard.expect("the hook is called in time").expect("the hook listens")
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Path and body of a POST, once all of it is there.
fn whole(question: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(question).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    let path = head.strip_prefix("POST ")?.split(' ').next()?;
    (body.len() >= length).then(|| (path.to_owned(), body.to_owned()))
}
