//! `gangway token`: mints short-lived tokens for slurmrestd into a file, so that only this process holds the key.
//!
//! It knows nothing of Kubernetes and speaks to nobody. It must never print the key or a token, and never leave a file
//! that others can read or that holds half a token.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use ring::hmac;
use tokio::signal::unix::{SignalKind, signal};

use crate::wall;

/// A token lives at least this long, so that clocks that differ a little do no harm.
const SHORTEST: u64 = 60;
/// Slurm refuses a token from the future: clocks may differ by so much.
const SKEW: u64 = 5;
/// After a failure it is tried again so soon.
const AGAIN: Duration = Duration::from_secs(1);

/// Flags of `gangway token`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Flags {
    /// Slurm's own key for HS256: the file that `jwt_key` in slurm.conf names; read again for each token
    #[arg(long, value_name = "FILE", env = "GANGWAY_JWT_KEY")]
    key: PathBuf,
    /// Where the token goes: the tokenFile of the process that uses it. Replaced as a whole, readable by its owner alone
    #[arg(long, value_name = "FILE", env = "SLURM_TOKEN_FILE")]
    out: PathBuf,
    /// Whose token it is
    #[arg(long, value_name = "NAME", default_value = "slurm")]
    user: String,
    /// How long a token is good for; a new one is made when half of that is over
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(SHORTEST..=86_400))]
    lifetime: u64,
    /// Make one and end, as an init container does
    #[arg(long)]
    once: bool,
    /// What to log, such as info or gangway=debug,warn
    #[arg(long, value_name = "FILTER", env = "GANGWAY_LOG_FILTER", default_value = "info")]
    log: String,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    crate::log::start(&flags.log, false)?;
    if flags.once {
        return renew(flags);
    }
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let wait = match renew(flags) {
            Ok(()) => {
                tracing::info!(file = %flags.out.display(), seconds = flags.lifetime, "a new token");
                Duration::from_secs(flags.lifetime / 2)
            }
            Err(error) => {
                let error = crate::chain::explain(error.as_ref());
                tracing::error!(error, "no new token; trying again");
                AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = term.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

fn renew(flags: &Flags) -> anyhow::Result<()> {
    let key = std::fs::read(&flags.key)
        .with_context(|| format!("cannot read the key {}", flags.key.display()))?;
    anyhow::ensure!(key.len() >= 16, "{} is too short for a key", flags.key.display());
    let now = u64::try_from(wall::now().as_second()).context("the clock is before 1970")?;
    let token = mint(&key, &flags.user, now, flags.lifetime)?;
    replace(&flags.out, &token)
        .with_context(|| format!("cannot write the token to {}", flags.out.display()))
}

/// A JWT as `scontrol token` makes it.
fn mint(key: &[u8], user: &str, now: u64, lifetime: u64) -> anyhow::Result<String> {
    let (iat, exp) = (now.saturating_sub(SKEW), now + lifetime);
    let claims = serde_json::to_string(&serde_json::json!({"iat": iat, "exp": exp, "sun": user}))?;
    Ok(sign(key, r#"{"alg":"HS256","typ":"JWT"}"#, &claims))
}

fn sign(key: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Puts the whole content there at once, for its owner alone.
fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    let next = path.with_extension("next");
    // A piece that a killed process left may have been opened by somebody.
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(content.as_bytes())?;
    drop(file);
    std::fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendix A.1.
    #[test]
    fn signs_as_the_standard_says() {
        let key = [
            3, 35, 53, 75, 43, 15, 165, 188, 131, 126, 6, 101, 119, 123, 166, 143, 90, 179, 40,
            230, 240, 84, 201, 40, 169, 15, 132, 178, 210, 80, 46, 191, 211, 251, 90, 146, 210, 6,
            71, 239, 150, 138, 180, 195, 119, 98, 61, 34, 61, 46, 33, 114, 5, 46, 79, 8, 192, 205,
            154, 245, 103, 208, 128, 163,
        ];
        let header = "{\"typ\":\"JWT\",\r\n \"alg\":\"HS256\"}";
        let claims =
            "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";
        let token = sign(&key, header, claims);
        assert_eq!(
            token,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9\
             .eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
             .dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
    }

    #[test]
    fn a_token_is_replaced_as_a_whole_and_is_its_owners() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("gangway-minted-{}", std::process::id()));
        for content in ["one", "second"] {
            replace(&path, content).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
    }
}
