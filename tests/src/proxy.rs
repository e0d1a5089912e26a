//! A small proxy before slurmrestd that can be in several moods, for what goes wrong on the way.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::http::free_port;

/// How the proxy treats who knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Everything passes.
    Pass,
    /// Connections are refused.
    Refuse,
    /// A text 404, as of a proxy that has lost its way.
    NotFound,
    /// A well-formed yes with no jobs in it.
    NoJobs,
    /// A 500 that is no JSON, though it says so.
    Garbage,
    /// Connections are taken and nothing is ever said.
    Silence,
    /// What asks for a job reaches Slurm, but its answer is lost; everything else passes.
    LosesAnswers,
}

/// The proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Its port on loopback.
    pub port: u16,
    mood: watch::Sender<Mood>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before `url`, in a mood.
    pub fn before(url: &str, mood: Mood) -> Self {
        let target = url.trim_start_matches("http://").trim_end_matches('/');
        let target: SocketAddr = target.parse().expect("slurmrestd's address has a number");
        let port = free_port();
        let mood = watch::Sender::new(mood);
        let serving = tokio::spawn(serve(port, target, mood.subscribe()));
        Self { port, mood, serving }
    }

    /// Where a client should go.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes the mood; connections of the old one are cut.
    pub fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(port: u16, target: SocketAddr, mut moods: watch::Receiver<Mood>) {
    let mut listener = None;
    loop {
        let mood = *moods.borrow_and_update();
        // Without a listener the kernel refuses.
        let open = match listener.take().filter(|_| mood != Mood::Refuse) {
            None if mood == Mood::Refuse => {
                if moods.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Some(open) => open,
            None => listen(port).await,
        };
        tokio::select! {
            changed = moods.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Ok((stream, _)) = open.accept() => {
                let mut moods = moods.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = treat(stream, target, mood) => {}
                        _ = moods.changed() => {}
                    }
                });
            }
        }
        listener = Some(open);
    }
}

async fn listen(port: u16) -> TcpListener {
    loop {
        // Nobody else wants it, but the kernel may take a moment to let go of it.
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn treat(mut stream: TcpStream, target: SocketAddr, mood: Mood) {
    let (status, kind, body) = match mood {
        Mood::Pass | Mood::Refuse => {
            if let Ok(mut server) = TcpStream::connect(target).await {
                // Either side may hang up at any time.
                let _ = copy_bidirectional(&mut stream, &mut server).await;
            }
            return;
        }
        Mood::LosesAnswers => {
            // It ends when either side hangs up, or an answer is lost.
            let _ = lose_answers(&mut stream, target).await;
            return;
        }
        Mood::Silence => return std::future::pending().await,
        Mood::NotFound => ("404 Not Found", "text/plain", "Unable to find requested URL"),
        Mood::NoJobs => (
            "200 OK",
            "application/json",
            r#"{"jobs":[],"last_update":{"set":true,"infinite":false,"number":1},"errors":[],"warnings":[]}"#,
        ),
        Mood::Garbage => ("500 Internal Server Error", "application/json", "<html>oops</html>"),
    };
    let mut question = [0; 16384];
    if stream.read(&mut question).await.is_ok() {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        // Whoever asked may have gone.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// Passes bytes on until a job has been asked for; hangs up when the answer to that comes.
async fn lose_answers(stream: &mut TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let (mut question, mut answer) = ([0; 16384], [0; 16384]);
    let mut asked_for_a_job = false;
    loop {
        tokio::select! {
            read = stream.read(&mut question) => {
                let part = &question[..read?];
                let line = part.split(|byte| *byte == b'\r').next().unwrap_or_default();
                let line = String::from_utf8_lossy(line);
                asked_for_a_job |= line.starts_with("POST")
                    && (line.contains("/job/submit") || line.contains("/job/allocate"));
                if part.is_empty() {
                    return Ok(());
                }
                server.write_all(part).await?;
            }
            read = server.read(&mut answer) => {
                let part = &answer[..read?];
                if part.is_empty() || asked_for_a_job {
                    return Ok(());
                }
                stream.write_all(part).await?;
            }
        }
    }
}
