//! A line of the log as one flat JSON object: an event's own fields, and beside them those of the span it is in.
//!
//! So whoever looks for a gang or a job looks in one place, `gang` and `job`, whether a line says it of itself or its task
//! says it for all of its lines.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes such lines.
pub(super) struct Flat(pub(super) Format<Json>);

/// When and how loud come first, for people.
#[derive(Serialize, Deserialize)]
struct Line {
    timestamp: String,
    level: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl Line {
    /// The span's fields move up to where the event's are, which says more exactly what it is about.
    fn flatten(mut self) -> Self {
        let Some(Value::Object(mut span)) = self.fields.remove("span") else { return self };
        if let Some(name) = span.remove("name") {
            self.fields.insert("span".to_owned(), name);
        }
        for (name, value) in span {
            self.fields.entry(name).or_insert(value);
        }
        self
    }
}

impl<S, N> FormatEvent<S, N> for Flat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut nested = String::new();
        self.0.format_event(context, Writer::new(&mut nested), event)?;
        let line = serde_json::from_str::<Line>(&nested).map(Line::flatten);
        match line.and_then(|line| serde_json::to_string(&line)) {
            Ok(flat) => writeln!(writer, "{flat}"),
            // Better as it is than not at all.
            Err(_) => writer.write_str(&nested),
        }
    }
}
