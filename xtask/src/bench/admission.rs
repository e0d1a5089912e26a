//! `cargo xtask bench admission`: how soon the webhook answers. The story `webhook` asks; here it gets a release build and
//! its figures are judged.

use anyhow::{Result, ensure};

use super::faults::{build, in_a_world, story};

/// Questions one after the other, and again as many sixteen at a time.
const QUESTIONS: &str = "4000";
/// Which part must be answered within 5 ms: by its own clock with one question at a time, and as the API server sees
/// it, with TLS and the way there and back.
const FLOORS: [(&str, f64); 2] =
    [("within_5ms", 0.99), ("within_5ms_as_the_api_server_sees", 0.99)];

/// Runs it; false when a floor is missed.
pub(crate) fn run() -> Result<bool> {
    build("building gangway in release", &["--release"])?;
    let mut lines = Vec::new();
    let mut well = true;
    let binary = super::target()?.join("release/gangway").display().to_string();
    in_a_world(None, |env| {
        let words = [("GANGWAY_WEBHOOK_QUESTIONS", QUESTIONS.to_owned()), ("GANGWAY_BIN", binary)];
        well &= story(env, "webhook::", &words, &mut lines)?;
        Ok(())
    })?;
    ensure!(!lines.is_empty(), "the story webhook told no figures");
    for line in lines.iter().filter(|line| line.contains("\"at_once\":1,")) {
        for (figure, floor) in FLOORS {
            let part = super::number(line, figure)?;
            if part < floor {
                eprintln!("bench: {figure} of {line} is below {floor}");
                well = false;
            }
        }
    }
    Ok(well)
}
