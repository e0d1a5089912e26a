//! Times as people type them and as they are shown to them: by distance from now, so that no time zone is needed.

use gangway_core::desk::lasting;
use k8s_openapi::jiff::Timestamp;

/// Seconds since the epoch of `now`, `7d`, `2026-11-01` or an RFC 3339 time.
pub(super) fn read(text: &str, now: i64) -> Option<i64> {
    if text == "now" {
        return Some(now);
    }
    if let Some((number, unit)) = text.split_at_checked(text.len().saturating_sub(1))
        && let Ok(count) = number.parse::<i64>()
    {
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        return count.checked_mul(unit).and_then(|ago| now.checked_sub(ago)).filter(|at| *at >= 0);
    }
    let day = text.len() == 10;
    let text = if day { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let at: Timestamp = text.parse().ok()?;
    Some(at.as_second()).filter(|at| *at >= 0)
}

/// When something that waits is expected to begin.
pub(super) fn ahead(at: i64, now: i64) -> String {
    match at {
        0 => "-".to_owned(),
        at if at <= now => "any moment".to_owned(),
        at => format!("in {}", lasting(at.saturating_sub(now))),
    }
}

/// When something began.
pub(super) fn since(at: i64, now: i64) -> String {
    if at == 0 { "-".to_owned() } else { format!("{} ago", lasting(now.saturating_sub(at))) }
}

/// A moment as a date in UTC.
pub(super) fn date(at: i64) -> String {
    Timestamp::from_second(at).map(|at| at.to_string()).unwrap_or_default()
}
