//! An error and its causes in one line: the same words for a log and for a user.

/// An error with its causes in one line, for a user.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        source = cause.source();
    }
    out
}
