//! slurmrestd's numbers: plain, in quotes, or `{set, infinite, number}`.
//!
//! It must never fail on a number it cannot use: such a one is simply not known.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A number that may be unset or infinite; both are `None` to the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Number(Option<i64>);

impl Number {
    /// The number, where there is one.
    pub(crate) fn get(self) -> Option<i64> {
        self.0
    }

    /// As seconds since the epoch; 0 where unknown.
    pub(crate) fn seconds(self) -> i64 {
        self.0.unwrap_or(0)
    }

    /// As a count or an id, where it is one.
    pub(crate) fn count<T: TryFrom<i64>>(self) -> Option<T> {
        self.0.and_then(|n| T::try_from(n).ok())
    }

    fn of_float(n: f64) -> Self {
        // Slurm's floats are counts with a fraction of nothing; `as` saturates.
        Self(n.is_finite().then_some(n as i64))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, plain or with set and infinite beside it")
    }

    fn visit_i64<E>(self, n: i64) -> Result<Number, E> {
        Ok(Number(Some(n)))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Number, E> {
        Ok(Number(i64::try_from(n).ok()))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Number, E> {
        Ok(Number::of_float(n))
    }

    fn visit_str<E>(self, text: &str) -> Result<Number, E> {
        Ok(Number(text.parse().ok()))
    }

    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Number, A::Error> {
        let (mut set, mut infinite, mut number) = (true, false, Number(None));
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "set" => set = map.next_value()?,
                "infinite" => infinite = map.next_value()?,
                "number" => number = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(if set && !infinite { number } else { Number(None) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_number_is_read() {
        let cases = [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("\"7\"", Some(7)),
            ("\"seven\"", None),
            ("null", None),
            ("-1", Some(-1)),
            (r#"{"set":true,"infinite":false,"number":7}"#, Some(7)),
            (r#"{"set":true,"infinite":true,"number":0}"#, None),
            (r#"{"set":false,"infinite":false,"number":0}"#, None),
            (r#"{"number":7,"unit":{"a":[1]}}"#, Some(7)),
            ("{}", None),
        ];
        for (text, expected) in cases {
            let number: Number = serde_json::from_str(text).unwrap();
            assert_eq!(number.get(), expected, "{text}");
        }
    }
}
