//! HTTP by hand: one question on one connection, for what a person would ask with curl.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Status and body of a GET on loopback; `None` where nobody answers.
pub async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let question =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
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
