//! Where the JWT comes from, and noticing that it was rotated.
//!
//! It must never print the token, and never keep one that the file no longer holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::mark::Mark;

/// Where the token is.
#[derive(Clone)]
pub enum TokenSource {
    /// A file, read again when it changes; a local one, for it is looked at before each request.
    /// Both the bare token and `scontrol token`'s own `SLURM_JWT=…` line are understood.
    File(PathBuf),
    /// The token itself, for tests.
    Fixed(String),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Fixed(_) => f.debug_tuple("Fixed").field(&"…").finish(),
        }
    }
}

/// The token in use.
pub(crate) struct Token {
    source: TokenSource,
    held: Mutex<Option<Held>>,
}

struct Held {
    mark: Mark,
    value: String,
}

impl Token {
    pub(crate) fn new(source: TokenSource) -> Self {
        Self { source, held: Mutex::new(None) }
    }

    /// The token as of now; the file is read only where it changed.
    pub(crate) fn current(&self) -> Result<String, Error> {
        let path = match &self.source {
            TokenSource::Fixed(value) => return Ok(value.clone()),
            TokenSource::File(path) => path,
        };
        let mark = Mark::of(path).map_err(|source| unreadable(path, source))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_ref().filter(|held| held.mark == mark) {
            return Ok(held.value.clone());
        }
        let value = read(path)?;
        *held = Some(Held { mark, value: value.clone() });
        Ok(value)
    }

    /// After a refusal: reads the file whatever its mark says (a rewrite within one tick of the
    /// clock leaves it as it was) and returns the token if it is another than `refused`.
    pub(crate) fn newer_than(&self, refused: &str) -> Result<Option<String>, Error> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let value = self.current()?;
        Ok((value != refused).then_some(value))
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
    let text = text.trim();
    Ok(text.strip_prefix("SLURM_JWT=").unwrap_or(text).to_owned())
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Token { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("gangway-token-{}", std::process::id()));
        std::fs::write(&path, "one\n").unwrap();
        let token = Token::new(TokenSource::File(path.clone()));
        assert_eq!(token.current().unwrap(), "one");
        std::fs::write(&path, "SLURM_JWT=second\n").unwrap();
        assert_eq!(token.current().unwrap(), "second");
        // Replaced by rename, as a mounted secret is.
        let next = path.with_extension("next");
        std::fs::write(&next, "third1").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(token.current().unwrap(), "third1");
        assert_eq!(token.newer_than("third1").unwrap(), None);
        assert_eq!(token.newer_than("second").unwrap().as_deref(), Some("third1"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(token.current(), Err(Error::Token { .. })));
    }

    #[test]
    fn a_token_is_never_printed() {
        assert!(!format!("{:?}", TokenSource::Fixed("secret".into())).contains("secret"));
    }
}
