//! An OTLP collector for one story: takes traces over gRPC and keeps them.

use std::collections::BTreeMap;

use gangway_tests::{SOON, wait};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Listens until it is dropped.
pub(super) struct Collector {
    pub(super) port: u16,
    heard: mpsc::UnboundedReceiver<Span>,
    spans: Vec<Span>,
    task: JoinHandle<()>,
}

struct Ear(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Ear {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            // A story that has ended does not listen.
            let _ = self.0.send(span);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(super) async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (tell, heard) = mpsc::unbounded_channel();
        let serving = Server::builder()
            .add_service(TraceServiceServer::new(Ear(tell)))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move {
            // It ends with the story.
            let _ = serving.await;
        });
        Self { port, heard, spans: Vec::new(), task }
    }

    /// Waits for the trace of a job's gang: the attributes of its root, once all of its spans are in one trace, each
    /// within the root's time.
    pub(super) async fn trace_of(&mut self, job: u32) -> BTreeMap<String, String> {
        let root = wait("the gang's trace", SOON, async || {
            while let Ok(span) = self.heard.try_recv() {
                self.spans.push(span);
            }
            let own = |span: &&Span| attributes(span).get("slurm.job.id") == Some(&job.to_string());
            self.spans.iter().find(own).cloned().ok_or_else(|| format!("{:?}", self.names()))
        })
        .await;
        self.spans.retain(|span| span.trace_id == root.trace_id);
        assert!(root.parent_span_id.is_empty() && root.name == "gang", "{root:?}");
        for span in self.spans.iter().filter(|span| span.name != "gang") {
            assert_eq!(span.parent_span_id, root.span_id, "{span:?}");
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
            // The halves have no common clock but the wall's: a few milliseconds.
            let slack = 50_000_000;
            assert!(
                span.start_time_unix_nano + slack >= root.start_time_unix_nano,
                "{span:?} {root:?}"
            );
            assert!(
                span.end_time_unix_nano <= root.end_time_unix_nano + slack,
                "{span:?} {root:?}"
            );
        }
        attributes(&root)
    }

    /// The id of the trace that is here.
    pub(super) fn trace_id(&self) -> String {
        let id = self.spans.first().map(|span| span.trace_id.clone()).unwrap_or_default();
        id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The names of the spans that are here.
    pub(super) fn names(&self) -> Vec<String> {
        self.spans.iter().map(|span| span.name.clone()).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let all = span.attributes.iter().cloned();
    all.map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}
