//! True answers made false: emptied, exchanged, or given too late.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// How old a stale answer is at most.
const OLDEST: Duration = Duration::from_secs(3);

/// Status, content type and body.
pub(super) type Answer = (StatusCode, Option<HeaderValue>, Bytes);

/// The true answers of the last while, by question.
#[derive(Default)]
pub(super) struct Memory(Mutex<HashMap<String, VecDeque<(Instant, Answer)>>>);

impl Memory {
    pub(super) fn keep(&self, asked: &str, answer: &Answer) {
        if !answer.0.is_success() {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = kept.entry(asked.to_owned()).or_default();
        of.push_back((Instant::now(), answer.clone()));
        of.retain(|(at, _)| at.elapsed() < OLDEST);
    }

    pub(super) fn oldest(&self, asked: &str) -> Option<Answer> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(asked)?.front().map(|(_, answer)| answer.clone())
    }
}

/// The same with all its lists empty.
pub(super) fn emptied(body: &[u8]) -> Bytes {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else {
        return Bytes::copy_from_slice(body);
    };
    for value in fields.values_mut().filter(|value| value.is_array()) {
        *value = json!([]);
    }
    Value::Object(fields).to_string().into()
}

/// The same with numbers for texts, texts for numbers, and objects for lists.
pub(super) fn exchanged(body: &[u8]) -> Bytes {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => exchange(value, 0).to_string().into(),
        Err(_) => Bytes::copy_from_slice(body),
    }
}

fn exchange(value: Value, depth: u32) -> Value {
    match value {
        Value::Number(_) => json!("many"),
        Value::String(_) => json!(7),
        Value::Bool(_) => json!("perhaps"),
        Value::Array(items) if depth < 2 => {
            items.into_iter().map(|item| exchange(item, depth + 1)).collect()
        }
        Value::Array(_) => json!({}),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, exchange(value, depth + 1))).collect()
        }
        Value::Null => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: &str = r#"{"jobs":[{"job_id":7,"job_state":["RUNNING"]}],"errors":[]}"#;

    #[test]
    fn lists_are_emptied_and_types_exchanged() {
        let read = |body: Bytes| serde_json::from_slice::<Value>(&body).expect("JSON");
        assert_eq!(read(emptied(TRUTH.as_bytes())), json!({"jobs": [], "errors": []}));
        let wrong = json!({"jobs": [{"job_id": "many", "job_state": {}}], "errors": []});
        assert_eq!(read(exchanged(TRUTH.as_bytes())), wrong);
    }

    #[test]
    fn the_oldest_answer_is_remembered_and_errors_are_not() {
        let memory = Memory::default();
        let answer = |status, text: &'static str| (status, None, Bytes::from(text));
        memory.keep("/jobs", &answer(StatusCode::BAD_GATEWAY, "no"));
        assert_eq!(memory.oldest("/jobs"), None);
        memory.keep("/jobs", &answer(StatusCode::OK, "first"));
        memory.keep("/jobs", &answer(StatusCode::OK, "second"));
        assert_eq!(memory.oldest("/jobs").expect("kept").2, "first");
        assert_eq!(memory.oldest("/nodes"), None);
    }
}
