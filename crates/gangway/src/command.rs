//! The operator's own command, run when a gang is warned: JSON on its input, a few words in its environment, and
//! nothing else of ours.
//!
//! It only tells. Whatever becomes of it, the gang has its time and leaves; nobody waits for it, and a few at a
//! time are enough. It must never get our secrets: its environment is empty but for what is said here.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config;

/// Commands that run at once; others wait for their turn.
const AT_ONCE: usize = 8;
/// So much of what it says is logged (bytes).
const HEARD: u64 = 8 << 10;

/// What to run; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    command: Arc<config::Command>,
    turns: Arc<Semaphore>,
}

/// Why it was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("it cannot be started")]
    Start(#[source] std::io::Error),
    #[error("its end could not be waited for")]
    Wait(#[source] std::io::Error),
    #[error("it has not ended within {0:?} and was killed")]
    TimedOut(Duration),
    #[error("it ended with {0}")]
    Failed(ExitStatus),
}

impl Caller {
    pub(crate) fn new(command: config::Command) -> Self {
        Self { command: Arc::new(command), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Runs it once. `variables` go into its environment, `input` to its standard input.
    pub(crate) async fn call(
        &self,
        variables: &[(&str, &str)],
        input: &Value,
    ) -> Result<(), CommandError> {
        // It is never closed.
        let _turn = self.turns.acquire().await;
        let path = std::env::var_os("PATH").map(|path| ("PATH", path));
        let mut child = Command::new(&self.command.program)
            .args(&self.command.arguments)
            .env_clear()
            .envs(path)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(CommandError::Start)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let tells = async {
            if let Some(mut stdin) = stdin {
                // Whoever does not read it need not.
                let _ = stdin.write_all(format!("{input}\n").as_bytes()).await;
            }
        };
        let ran = async {
            let ((), said, complained) = tokio::join!(tells, heard(stdout), heard(stderr));
            tracing::debug!(program = %self.command.program.display(), said, complained, "the warning command has spoken");
            child.wait().await
        };
        match timeout(self.command.timeout, ran).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(CommandError::Failed(status)),
            Ok(Err(error)) => Err(CommandError::Wait(error)),
            Err(_) => Err(CommandError::TimedOut(self.command.timeout)),
        }
    }
}

/// The beginning of what a command says; the rest is read and forgotten, so that it can go on.
async fn heard(pipe: Option<impl AsyncReadExt + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut beginning = Vec::new();
    // What it said until it broke off is what was heard.
    let _ = (&mut pipe).take(HEARD).read_to_end(&mut beginning).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&beginning).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn shell(script: &str, timeout: Duration) -> Caller {
        let arguments = ["-c", script].map(str::to_owned).to_vec();
        Caller::new(config::Command { program: PathBuf::from("/bin/sh"), arguments, timeout })
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn it_is_told_on_its_input_and_in_its_environment_and_gets_nothing_else() {
        let check = r#"read line; test "$line" = '{"why":"it is over"}' && test "$GANGWAY_GANG" = g && test -z "$CARGO_PKG_NAME" && test -n "$PATH""#;
        let input = json!({"why": "it is over"});
        let called = shell(check, LONG).call(&[("GANGWAY_GANG", "g")], &input).await;
        called.expect("it was told");
        assert!(
            std::env::var_os("CARGO_PKG_NAME").is_some(),
            "there was something to keep from it"
        );
    }

    #[tokio::test]
    async fn what_becomes_of_it_is_known() {
        let failed = shell("exit 3", LONG).call(&[], &json!({})).await;
        assert!(matches!(failed, Err(CommandError::Failed(status)) if status.code() == Some(3)));
        let command = config::Command {
            program: PathBuf::from("/nowhere/at/all"),
            arguments: Vec::new(),
            timeout: LONG,
        };
        let missing = Caller::new(command).call(&[], &json!({})).await;
        assert!(matches!(missing, Err(CommandError::Start(_))));
    }

    #[tokio::test]
    async fn it_is_killed_when_its_time_is_up_and_one_that_talks_without_end_is_no_harm() {
        let began = std::time::Instant::now();
        let slow = shell("exec sleep 600", Duration::from_millis(200)).call(&[], &json!({})).await;
        assert!(matches!(slow, Err(CommandError::TimedOut(_))), "{slow:?}");
        assert!(began.elapsed() < LONG, "nobody has waited for it");
        let loud = shell("head -c 1000000 /dev/zero", LONG).call(&[], &json!({})).await;
        assert!(loud.is_ok(), "{loud:?}");
    }

    #[tokio::test]
    async fn a_few_run_at_once() {
        let caller = shell("exit 0", LONG);
        let all = caller.turns.clone().acquire_many_owned(8).await.expect("it is open");
        let input = json!({});
        let waits = caller.call(&[], &input);
        tokio::pin!(waits);
        let early = timeout(Duration::from_millis(100), &mut waits).await;
        assert!(early.is_err(), "it has to wait for a turn");
        drop(all);
        waits.await.expect("it has run");
    }
}
