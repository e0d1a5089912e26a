//! The values of annotations, each checked so that Slurm cannot read it as anything else.
//!
//! Pure text in, typed value or one sentence for the user out. A message never repeats a long value.

use super::{Hook, OnLoss};
use crate::hostlist::Hostlist;
use crate::job::{Exclusive, GresRequest, Moment, Switches};

/// A value as shown in a message: never longer than a line.
pub(super) fn shown(value: &str) -> String {
    let mut short: String = value.chars().take(40).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A name as Slurm takes it. Anything else could be read by Slurm as a list, an option or a key.
pub(crate) fn word(value: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if value.is_empty() || value.len() > 128 || !value.chars().all(fine) {
        return Err(format!(
            "{} is not a name (letters, digits, '.', '_' and '-', at most 128)",
            shown(value)
        ));
    }
    Ok(value.to_owned())
}

/// Names separated by commas, each once.
pub(super) fn words(value: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for name in value.split(',') {
        let name = word(name.trim())?;
        if !out.contains(&name) {
            out.push(name);
        }
    }
    if out.len() > 64 {
        return Err(format!("{} names are too many (at most 64)", out.len()));
    }
    Ok(out)
}

/// A number within bounds, both included.
pub(super) fn number<N>(value: &str, least: N, most: N) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    match value.parse() {
        Ok(n) if least <= n && n <= most => Ok(n),
        _ => Err(format!("{} is not a number from {least} to {most}", shown(value))),
    }
}

/// `true` or `false`.
pub(super) fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("{} is neither true nor false", shown(value)))
}

/// Printable text that fits into one of Slurm's fields.
pub(super) fn text(value: &str) -> Result<String, String> {
    if value.is_empty() || value.len() > 1024 || value.chars().any(char::is_control) {
        return Err(format!("{} is not one line of 1 to 1024 bytes", shown(value)));
    }
    Ok(value.to_owned())
}

/// Minutes, or Slurm's `[days-]hours:minutes[:seconds]`, seconds rounded up.
pub(crate) fn minutes(value: &str) -> Result<u32, String> {
    parse_seconds(value)
        .and_then(|seconds| u32::try_from(seconds.div_ceil(60)).ok())
        .filter(|minutes| *minutes > 0)
        .ok_or_else(|| {
            format!("{} is not a time limit (minutes, HH:MM:SS or D-HH:MM:SS)", shown(value))
        })
}

/// A time of up to a day, in seconds.
pub(super) fn grace(value: &str) -> Result<u32, String> {
    parse_seconds(value)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .filter(|seconds| (1..=86_400).contains(seconds))
        .ok_or_else(|| {
            format!("{} is not a time up to a day (minutes, MM:SS or HH:MM:SS)", shown(value))
        })
}

/// `http://:PORT/PATH`
pub(super) fn hook(value: &str) -> Result<Hook, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "/._-~?=&%+".contains(c);
    let read = || {
        let (port, path) = value.strip_prefix("http://:")?.split_once('/')?;
        let port = digits(port).and_then(|port| u16::try_from(port).ok()).filter(|p| *p > 0)?;
        let short = path.len() <= 200 && path.chars().all(fine);
        short.then(|| Hook { port, path: format!("/{path}") })
    };
    read().ok_or_else(|| format!("{} is not http://:PORT/PATH", shown(value)))
}

/// `restart` or `replace`
pub(super) fn loss(value: &str) -> Result<OnLoss, String> {
    let known = [OnLoss::Restart, OnLoss::Replace].into_iter().find(|l| l.word() == value);
    known.ok_or_else(|| format!("{} is neither restart nor replace", shown(value)))
}

fn parse_seconds(value: &str) -> Option<u64> {
    let (days, rest) = match value.split_once('-') {
        Some((days, rest)) => (digits(days).filter(|d| *d < 10_000)?, rest),
        None => (0, value),
    };
    let has_days = rest.len() != value.len();
    let parts: Vec<u64> = rest.split(':').map(digits).collect::<Option<_>>()?;
    // Slurm: with days the first part is hours; without, one part is minutes and two are
    // minutes:seconds (man sbatch, --time).
    let seconds = match (has_days, parts.as_slice()) {
        (true, [h]) => h * 3600,
        (true, [h, m]) => h * 3600 + m * 60,
        (false, [m]) => m * 60,
        (false, [m, s]) => m * 60 + s,
        (_, [h, m, s]) => h * 3600 + m * 60 + s,
        _ => return None,
    };
    Some(days * 86_400 + seconds)
}

/// A number of digits alone, below a thousand million.
fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| all)
}

/// `now+N[seconds|minutes|hours|days|weeks]`, seconds since the epoch, or ISO 8601 with its offset.
pub(super) fn moment(value: &str) -> Result<Moment, String> {
    let found = match value.strip_prefix("now") {
        Some("") => Some(Moment::In(0)),
        Some(rest) => rest.strip_prefix('+').and_then(distance).map(Moment::In),
        None if value.bytes().all(|b| b.is_ascii_digit()) => seconds(value.parse().ok()),
        None => seconds(iso(value)),
    };
    found.ok_or_else(|| {
        format!(
            "{} is not a time (2027-01-31T18:00:00Z, with an offset such as +01:00, seconds since the epoch, or now+2hours)",
            shown(value)
        )
    })
}

/// Seconds since the epoch from the year 2000 on; a smaller number would be a year or a typing error.
fn seconds(at: Option<i64>) -> Option<Moment> {
    at.filter(|at| (946_684_800..1 << 40).contains(at)).map(Moment::At)
}

fn distance(text: &str) -> Option<u32> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let count = digits(&text[..text.len() - unit.len()])?;
    let seconds = match unit.strip_suffix('s').unwrap_or(unit) {
        "" | "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 86_400,
        "week" => 604_800,
        _ => return None,
    };
    // Thirty years: what is written out again must be read again.
    u32::try_from(count * seconds).ok().filter(|distance| *distance < 1_000_000_000)
}

/// `YYYY-MM-DDTHH:MM[:SS]` with `Z` or `±HH:MM`, as seconds since the epoch.
fn iso(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let (time, offset) = match time.find(['Z', '+', '-']) {
        Some(at) => time.split_at(at),
        // Whose midnight? Pods, Slurm and the user may each be in another time zone.
        None => return None,
    };
    let part = |text: &str, len: usize, most: i64| {
        let n = digits(text).filter(|_| text.len() == len).and_then(|n| i64::try_from(n).ok());
        n.filter(|n| *n <= most)
    };
    let offset = match offset.split_at(1) {
        ("Z", "") => 0,
        (sign, rest) => {
            let (h, m) = rest.split_once(':')?;
            let seconds = part(h, 2, 23)? * 3600 + part(m, 2, 59)? * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    let date: Vec<&str> = date.split('-').collect();
    let [year, month, day] = date[..] else { return None };
    let (year, month, day) = (part(year, 4, 9999)?, part(month, 2, 12)?, part(day, 2, 31)?);
    let clock: Vec<&str> = time.split(':').collect();
    let (h, m, s) = match clock[..] {
        [h, m] => (h, m, "00"),
        [h, m, s] => (h, m, s),
        _ => return None,
    };
    let seconds = part(h, 2, 23)? * 3600 + part(m, 2, 59)? * 60 + part(s, 2, 59)?;
    Some(days_from_epoch(year, month, day)? * 86_400 + seconds - offset)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; `None` where there is no such day.
fn days_from_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month - 1).ok()?;
    if day < 1 || day > *lengths.get(index)? {
        return None;
    }
    // Leap days before this year, those of 1970 and before taken off.
    let leaps = |y: i64| y / 4 - y / 100 + y / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    Some(years + lengths[..index].iter().sum::<i64>() + day - 1)
}

/// `COUNT[@TIME]`, as `sbatch --switches`.
pub(super) fn switches(value: &str) -> Result<Switches, String> {
    let (count, wait) = value.split_once('@').map_or((value, None), |(c, w)| (c, Some(w)));
    let wait_seconds = match wait {
        None => None,
        Some(wait) => {
            let seconds = parse_seconds(wait).and_then(|s| i32::try_from(s).ok()?.try_into().ok());
            Some(seconds.ok_or_else(|| {
                format!("{} is not a time (minutes, MM:SS, HH:MM:SS or D-HH:MM:SS)", shown(wait))
            })?)
        }
    };
    Ok(Switches { count: number(count, 1, 65_535)?, wait_seconds })
}

/// `true` (whole nodes), `user`, `mcs` or `topo`; `false` asks for nothing.
pub(super) fn exclusive(value: &str) -> Result<Option<Exclusive>, String> {
    let all = [Exclusive::Node, Exclusive::User, Exclusive::Mcs, Exclusive::Topo];
    match all.into_iter().find(|e| e.word() == value) {
        None if value == "false" => Ok(None),
        None => Err(format!("{} is none of true, false, user, mcs, topo", shown(value))),
        found => Ok(found),
    }
}

/// Features in Slurm's grammar: names, `&`, `|`, counts `*N`, groups in `[…]` and `(…)`.
pub(super) fn features(value: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "&|*[](),:._-".contains(c);
    let named = value.chars().any(|c| c.is_ascii_alphanumeric());
    if !named || value.len() > 1024 || !value.chars().all(fine) {
        return Err(format!(
            "{} is not a list of features (letters, digits and & | * [ ] ( ) , : . _ -)",
            shown(value)
        ));
    }
    let mut open = Vec::new();
    for c in value.chars() {
        let balanced = match c {
            '[' | '(' => {
                open.push(c);
                true
            }
            ']' => open.pop() == Some('['),
            ')' => open.pop() == Some('('),
            _ => true,
        };
        if !balanced {
            return Err(format!("the brackets of {} do not match", shown(value)));
        }
    }
    if !open.is_empty() {
        return Err(format!("the brackets of {} do not match", shown(value)));
    }
    Ok(value.to_owned())
}

/// `name[@server][:count]` separated by `,` (all) or `|` (any one).
pub(super) fn licenses(value: &str) -> Result<String, String> {
    let problem =
        || format!("{} is not a list of licences (such as matlab:2,ansys@server:1)", shown(value));
    if value.len() > 1024 || (value.contains(',') && value.contains('|')) {
        return Err(problem());
    }
    for licence in value.split([',', '|']) {
        let (name, count) = licence.split_once(':').unwrap_or((licence, "1"));
        let (name, server) = name.split_once('@').unwrap_or((name, "here"));
        if word(name).is_err() || word(server).is_err() || number(count, 1, 1_000_000_000).is_err()
        {
            return Err(problem());
        }
    }
    Ok(value.to_owned())
}

/// `name[:type][:count]` separated by commas, as `sbatch --gres`: what each node must give.
pub(super) fn gres(value: &str) -> Result<Vec<GresRequest>, String> {
    let problem = || format!("{} is not a list of GRES (such as gpu:h100:8,nvme:1)", shown(value));
    let mut out: Vec<GresRequest> = Vec::new();
    for one in value.split(',') {
        let one = one.trim();
        let one = one.strip_prefix("gres/").unwrap_or(one);
        let parts: Vec<&str> = one.split(':').collect();
        let (name, kind, count) = match parts[..] {
            [name] => (name, None, "1"),
            [name, last] if digits(last).is_some() => (name, None, last),
            [name, kind] => (name, Some(kind), "1"),
            [name, kind, count] => (name, Some(kind), count),
            _ => return Err(problem()),
        };
        let kind = kind.map(word).transpose().map_err(|_| problem())?;
        let name = word(name).map_err(|_| problem())?;
        let count = number(count, 1, 1_000_000).map_err(|_| problem())?;
        if out.iter().any(|g| g.name == name && g.kind == kind) || out.len() == 64 {
            return Err(problem());
        }
        out.push(GresRequest { name, kind, count });
    }
    Ok(out)
}

/// A hostlist of node names.
pub(super) fn nodes(value: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "[],._-".contains(c);
    if !value.chars().all(fine) {
        return Err(format!("{} is not a list of nodes (such as node[1-4,9])", shown(value)));
    }
    match Hostlist::parse(value) {
        Ok(list) if !list.is_empty() => Ok(list.to_string()),
        Ok(_) => Err("it names no node".to_owned()),
        Err(error) => Err(format!("{} is not a list of nodes: {error}", shown(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_slurm_reads_them() {
        for (text, want) in [
            ("90", 90),
            ("90:30", 91),
            ("2:00:00", 120),
            ("1-0", 1440),
            ("1-2:30", 1590),
            ("1-0:0:1", 1441),
        ] {
            assert_eq!(minutes(text), Ok(want), "{text}");
        }
        for text in ["", "0", "-5", "+5", "1:2:3:4", "soon", "1-", "99999999999999999999"] {
            assert!(minutes(text).is_err(), "{text}");
        }
    }

    /// The seconds are those of `date -u -d … +%s`.
    #[test]
    fn moments_are_read_exactly() {
        for (text, want) in [
            ("2000-01-01T00:00Z", 946_684_800),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2026-11-23T22:00:00+01:00", 1_795_467_600),
            ("2100-03-01T00:00:00-05:30", 4_107_562_200),
            ("1795467600", 1_795_467_600),
        ] {
            assert_eq!(moment(text), Ok(Moment::At(want)), "{text}");
        }
        for (text, want) in [
            ("now", 0),
            ("now+90", 90),
            ("now+1hour", 3600),
            ("now+2days", 172_800),
            ("now+3minutes", 180),
        ] {
            assert_eq!(moment(text), Ok(Moment::In(want)), "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "now-1",
            "now+",
            "now+1moon",
            "2026",
            "2026-11-23",
            "2026-11-23T22:00:00",
            "2026-02-29T00:00Z",
            "2026-13-01T00:00Z",
            "2026-11-23T24:00Z",
            "2026-11-23T22:00+1",
            "2026-1-2T3:4Z",
            "16:00",
            "99999999999999",
            "now+9999999weeks",
            "now+300000hours",
            "0000-01-01T00:00Z",
            "1999-12-31T23:59:59Z",
            "946684799",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn features_keep_slurms_grammar_and_nothing_else() {
        for text in ["h100", "h100&ib", "a|b", "[rack1*2&rack2*4]", "(a|b)&c", "gpu:v1.2_x-y"] {
            assert_eq!(features(text).as_deref(), Ok(text));
        }
        for text in
            ["", "a b", "a;b", "[a", "a]", "[a(b]c)", "(a]", "[a)", "&", "a\"b", "a=b", "a\nb", "ü"]
        {
            assert!(features(text).is_err(), "{text}");
        }
    }

    #[test]
    fn licences_and_gres_are_lists_of_names_and_counts() {
        for text in ["matlab", "matlab:2,ansys@flex:1", "a|b:3"] {
            assert_eq!(licenses(text).as_deref(), Ok(text));
        }
        for text in ["", ",", "a:0", "a:x", "a,b|c", "a b", "a:1:2", "@x"] {
            assert!(licenses(text).is_err(), "{text}");
        }
        let tres = |text: &str| {
            gres(text).map(|all| all.iter().map(GresRequest::to_tres).collect::<Vec<_>>().join(","))
        };
        assert_eq!(
            tres("gpu:h100:8,efa:32,nvme").as_deref(),
            Ok("gres/gpu:h100=8,gres/efa=32,gres/nvme=1")
        );
        assert_eq!(tres("gpu:h100").as_deref(), Ok("gres/gpu:h100=1"));
        for text in ["", "gpu:", "gpu:0", "gpu:h100:many", "gpu,gpu", "a:b:1:2", "gpu=8"] {
            assert!(gres(text).is_err(), "{text}");
        }
    }

    #[test]
    fn switches_wait_as_long_as_told() {
        let of = |count, wait_seconds| Ok(Switches { count, wait_seconds });
        assert_eq!(switches("2"), of(2, None));
        assert_eq!(switches("1@10"), of(1, Some(600)));
        assert_eq!(switches("1@0:30"), of(1, Some(30)));
        assert_eq!(
            switches(&Switches { count: 3, wait_seconds: Some(3661) }.to_string()),
            of(3, Some(3661))
        );
        for text in ["0", "x", "1@", "1@soon", "@5"] {
            assert!(switches(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_of_nodes_is_bounded() {
        assert_eq!(nodes("n1,n2,n3").as_deref(), Ok("n[1-3]"));
        for text in ["", "n[1-", "n[1-999999999]", "n;m"] {
            assert!(nodes(text).is_err(), "{text}");
        }
    }
}
