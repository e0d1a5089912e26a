//! What only a real terminal has: colours, the whole screen and keys; and what other programs read in its place.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use gangway_core::job::BaseState;
use gangway_tests::{Bridge, SOON, Story, manifest, wait};
use serde_json::Value;

use super::{Said, types};

/// A command on a terminal of 160 columns and 40 lines, which util-linux' `script` makes for it.
struct Screen {
    child: Child,
    keys: Option<ChildStdin>,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Screen {
    fn open(story: &Story, words: &[&str], variables: &[(&str, &str)]) -> Self {
        let line = format!(
            "stty rows 40 cols 160; exec {} {}",
            Bridge::binary().display(),
            words.join(" ")
        );
        let mut command = Command::new("script");
        // As quiet as it can be, and it ends as the command has ended.
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        command
            .env("GANGWAY_DOOR_URL", format!("http://127.0.0.1:{}", story.bridge.grpc))
            .env("TERM", "xterm")
            .env("HOME", "/nowhere")
            .env("SHELL", "/bin/sh")
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("script of util-linux can be started");
        let keys = child.stdin.take();
        let mut output = child.stdout.take().expect("it has an output");
        let shown: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sink = shown.clone();
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut chunk) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..n]);
            }
        });
        Self { child, keys, shown, reader: Some(reader) }
    }

    /// Everything that was shown so far.
    fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until these words are shown, after so many bytes.
    async fn shows(&self, after: usize, words: &str) {
        wait(&format!("the screen shows {words:?}"), SOON, async || {
            let shown = self.shown();
            if shown.get(after..).is_some_and(|new| new.contains(words)) {
                Ok(())
            } else {
                Err(shown)
            }
        })
        .await;
    }

    fn press(&mut self, key: &str) {
        let keys = self.keys.as_mut().expect("the keyboard is there");
        keys.write_all(key.as_bytes()).and_then(|()| keys.flush()).expect("keys can be pressed");
    }

    /// Waits until it has ended, and how; everything it has shown is there then.
    async fn ends(&mut self) -> ExitStatus {
        let status = wait("the command ends", SOON, async || {
            self.child.try_wait().ok().flatten().ok_or_else(|| self.shown())
        })
        .await;
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        status
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Either fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_screen_has_colours_and_keys_and_programs_have_neither() {
    let Some(story) = Story::begin("screen").await else { return };
    let gangway = Bridge::binary();
    let sbatch = ["-p", "hybrid", "-n1", "-c1", "--mem=500", "--gres=gpu:2", "--nodelist=h2"];
    let batch = story.slurm.sbatch("bob", &sbatch);
    story.slurm.reaches(batch, BaseState::Running).await;
    story.kube.create(&manifest::indexed_job("train", 2, &manifest::template(8, &[]))).await;
    let gang = story.seated(&story.bound("train-", 2).await).await.id.to_string();
    let batch = batch.to_string();

    // For programs: both forms are the same value.
    let ask = async |words: &[&str]| types(&story, &gangway, None, words).await;
    for words in [&["queue"][..], &["nodes"], &["explain", &gang]] {
        let form = async |form: &str| ask(&[words, &["-o", form]].concat()).await;
        wait(&format!("{words:?} says the same in YAML and JSON"), SOON, async || {
            let (json, yaml) = (form("json").await.json(), form("yaml").await);
            assert_eq!(yaml.code, Some(0), "{}", yaml.complaint);
            let read: Value = serde_saphyr::from_str(&yaml.out).map_err(|e| e.to_string())?;
            let both = [json.to_string(), yaml.out].map(|text| text.contains(&gang));
            // Slurm may have gone on between the two.
            if read == json && both == [true, true] {
                Ok(())
            } else {
                Err(format!("{json} {read}"))
            }
        })
        .await;
    }

    colours(&story).await;

    // The whole screen: the queue, with Tab the nodes, and q leaves.
    let mut top = Screen::open(&story, &["top"], &[]);
    for job in [&gang, &batch] {
        top.shows(0, job).await;
    }
    assert!(top.shown().contains("\x1b[?1049h"), "on a screen of its own");
    let before = top.shown().len();
    top.press("\t");
    top.shows(before, "p5-0001").await;
    assert!(matches!(top.child.try_wait(), Ok(None)), "it goes on until q: {}", top.shown());
    top.press("q");
    let status = top.ends().await;
    assert_eq!(status.code(), Some(0), "{}", top.shown());
    assert!(top.shown().contains("\x1b[?1049l"), "the screen is given back: {}", top.shown());
    // No terminal, no screen.
    let refused = ask(&["top"]).await;
    assert_eq!(refused.code, Some(2), "{} {}", refused.out, refused.complaint);

    completions(&story, &gangway).await;
    story.end().await;
}

/// Colours are for terminals that have some and people who want them.
async fn colours(story: &Story) {
    for (variables, wanted) in [
        (&[][..], true),
        (&[("NO_COLOR", "")], true),
        (&[("NO_COLOR", "1")], false),
        (&[("TERM", "dumb")], false),
    ] {
        let mut screen = Screen::open(story, &["queue"], variables);
        let status = screen.ends().await;
        let shown = screen.shown();
        assert_eq!(status.code(), Some(0), "{variables:?}: {shown}");
        assert!(shown.contains("RUNNING"), "{variables:?}: {shown}");
        assert_eq!(shown.contains("\x1b["), wanted, "{variables:?}: {shown:?}");
    }
}

/// Completions for the shells, which bash takes as they are.
async fn completions(story: &Story, gangway: &Path) {
    for shell in ["bash", "zsh", "fish"] {
        let Said { code, out, complaint } =
            types(story, gangway, None, &["completion", shell]).await;
        assert_eq!(code, Some(0), "{shell}: {complaint}");
        for verb in ["explain", "queue", "whatif"] {
            assert!(out.contains(verb), "{shell} has no {verb}");
        }
        if shell == "bash" {
            let file = story.bridge.directory().join("completion.bash");
            std::fs::write(&file, &out).expect("the temporary directory can be written");
            let words = format!("source {} && complete -p gangway", file.display());
            let ran = Command::new("bash").args(["--norc", "-c", &words]).output();
            let ran = ran.expect("bash can be started");
            let complaint = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "bash does not take them: {complaint}");
        }
    }
}
