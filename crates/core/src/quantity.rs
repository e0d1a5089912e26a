//! Kubernetes quantities (`500m`, `2Ti`, `1e3`), read exactly.
//!
//! Two questions only: how many thousandths of a CPU, how many whole units of anything else.
//! Rounding is always up, so that a placeholder never asks for less than the pod will use.

/// A quantity that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantity {0:?} is not a number with an optional suffix such as m, k, M, Gi")]
pub struct BadQuantity(pub String);

/// Thousandths of the unit, rounded up: `1` is 1000, `250m` is 250, `0.1` is 100.
pub fn milli(text: &str) -> Result<u64, BadQuantity> {
    let value = parse(text)?;
    value.scaled(1000).ok_or_else(|| BadQuantity(text.to_owned()))
}

/// Whole units, rounded up: `2Ti` is 2 × 2^40, `1500m` is 2.
pub fn units(text: &str) -> Result<u64, BadQuantity> {
    let value = parse(text)?;
    value.scaled(1).ok_or_else(|| BadQuantity(text.to_owned()))
}

/// Whole units for people, exactly: `10Gi`, `1500`.
pub fn binary(units: u64) -> String {
    let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let steps = if units == 0 { 0 } else { (units.trailing_zeros() / 10).min(6) };
    let suffix = suffixes.get(steps as usize).copied().unwrap_or_default();
    format!("{}{suffix}", units >> (10 * steps))
}

/// `digits / 10^decimals * multiplier / divisor`, kept as integers.
struct Value {
    digits: u128,
    decimals: u32,
    multiplier: u128,
    divisor: u128,
}

impl Value {
    /// The value times `scale`, rounded up; `None` when it does not fit.
    fn scaled(&self, scale: u128) -> Option<u64> {
        let numerator = self.digits.checked_mul(self.multiplier)?.checked_mul(scale)?;
        let denominator = 10u128.checked_pow(self.decimals)?.checked_mul(self.divisor)?;
        u64::try_from(numerator.div_ceil(denominator)).ok()
    }
}

fn parse(text: &str) -> Result<Value, BadQuantity> {
    let bad = || BadQuantity(text.chars().take(64).collect());
    let body = text.trim().strip_prefix('+').unwrap_or_else(|| text.trim());
    let end = body.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(body.len());
    let (number, suffix) = body.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // 18 digits hold every quantity a cluster has and keep the arithmetic inside u128.
    if whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 18 {
        return Err(bad());
    }
    let digits = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let decimals = u32::try_from(fraction.len()).map_err(|_| bad())?;
    let (multiplier, divisor) = suffix_factor(suffix).ok_or_else(bad)?;
    Ok(Value { digits, decimals, multiplier, divisor })
}

/// The suffix as a fraction; `None` for one Kubernetes does not have.
fn suffix_factor(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(power) {
                Ok(p) if p <= 18 => (10u128.pow(p), 1),
                Ok(_) => return None,
                Err(_) if power >= -9 => (1, 10u128.pow(power.unsigned_abs())),
                Err(_) => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_read_in_thousandths_and_rounded_up() {
        for (text, want) in [
            ("1", 1000),
            ("250m", 250),
            ("0.1", 100),
            ("1.0001", 1001),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("100u", 1),
        ] {
            assert_eq!(milli(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn bytes_are_read_whole() {
        for (text, want) in [
            ("2Ti", 2 << 40),
            ("128974848", 128_974_848),
            ("1500m", 2),
            ("1Gi", 1 << 30),
            ("1E", 1_000_000_000_000_000_000),
            ("+8", 8),
        ] {
            assert_eq!(units(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn units_are_written_as_they_are_read() {
        for text in ["0", "1", "1500", "10Gi", "64Mi", "1025Ki", "15Ei"] {
            assert_eq!(binary(units(text).expect("a quantity")), text);
        }
    }

    #[test]
    fn nonsense_is_refused_and_nothing_overflows() {
        for text in [
            "",
            ".",
            "m",
            "1Zi",
            "-1",
            "1 2",
            "99999999999999999999",
            "999999999999999999Ei",
            "1e99",
            "0x10",
        ] {
            assert!(units(text).is_err(), "{text}");
        }
    }
}
