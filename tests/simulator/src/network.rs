//! Time, and everything that travels: requests, answers, watch events, each with a delay of its own.
//!
//! What arrives in the same millisecond is handled in an order that follows from what it is, never
//! from which task came first: so a seed has one history, whatever order tasks are woken in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until};

use crate::dice::Hash;
use crate::kubernetes::{Answer, Resource, Watch, status};
use crate::world::World;

/// A request, as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Which life of the bridge sent it.
    pub(crate) life: u32,
    /// As of when Slurm had told the bridge its states when this was sent.
    pub(crate) heard_ms: u64,
    pub(crate) what: Request,
}

impl Call {
    pub(crate) fn new(life: u32, what: Request) -> Self {
        Self { life, heard_ms: 0, what }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Request {
    Kubernetes { method: String, path: String, query: String, body: Vec<u8> },
    Slurm(gangway_slurm::Request),
}

impl Request {
    /// What is asked for.
    fn line(&self) -> String {
        match self {
            Self::Kubernetes { method, path, query, .. } => format!("({method} {path}?{query})"),
            Self::Slurm(request) => format!("({} {})", request.method, request.path),
        }
    }
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Status, and a whole body.
    Json(u16, Bytes),
    /// A watch.
    Stream(mpsc::UnboundedReceiver<Bytes>),
    /// slurmrestd's answer.
    Slurm(gangway_slurm::Response),
    /// The connection broke, or there was none.
    Broken { sent: bool },
}

/// What happens to a call besides being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never arrives, and the caller knows that.
    Refused,
    /// It is answered with trouble, without effect.
    Trouble,
    /// It is carried out, and the connection breaks.
    Lost,
    /// It is carried out, and answered late.
    Late(u64),
    /// It never arrives, and nobody ever says so.
    Silence,
    /// Another answer than the true one.
    Lie(&'static str),
}

enum Parcel {
    Arrive {
        call: Call,
        reply: oneshot::Sender<Reply>,
    },
    /// `states`: it tells Slurm's states, as of then.
    Deliver {
        life: u32,
        reply: oneshot::Sender<Reply>,
        what: Reply,
        states: Option<u64>,
    },
    Event {
        watch: u64,
        line: Bytes,
    },
}

struct Listener {
    life: u32,
    resource: Resource,
    watch: Watch,
    lines: mpsc::UnboundedSender<Bytes>,
    /// Events keep their order.
    last_ms: u64,
}

/// Everything, behind one lock.
pub(crate) struct Inner {
    pub(crate) world: World,
    parcels: BTreeMap<(u64, u64, u64), Parcel>,
    sequence: u64,
    listeners: BTreeMap<u64, Listener>,
    watches: u64,
    /// How often a call with this signature was made.
    times: BTreeMap<u64, u64>,
    /// Calls that have arrived from the present life.
    calls: u64,
    began: Instant,
    /// Every call stands in the history, with what went wrong with it.
    pub(crate) tells_all: bool,
}

/// The network.
#[derive(Clone)]
pub(crate) struct Network {
    inner: Arc<Mutex<Inner>>,
    sooner: Arc<Notify>,
}

impl Network {
    pub(crate) fn new(world: World) -> Self {
        let inner = Inner {
            world,
            parcels: BTreeMap::new(),
            sequence: 0,
            listeners: BTreeMap::new(),
            watches: 0,
            times: BTreeMap::new(),
            calls: 0,
            began: Instant::now(),
            tells_all: false,
        };
        Self { inner: Arc::new(Mutex::new(inner)), sooner: Arc::new(Notify::new()) }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a call. One that is never answered waits for ever.
    pub(crate) async fn ask(&self, call: Call) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.inner().send(call, reply);
        self.sooner.notify_one();
        match answer.await {
            Ok(reply) => reply,
            Err(_) => std::future::pending().await,
        }
    }

    /// Lets time pass until the world says that it is over.
    pub(crate) async fn run(&self) {
        loop {
            let (next, over) = {
                let mut inner = self.inner();
                let now = inner.now();
                inner.work(now);
                (inner.next_ms(), inner.world.is_over())
            };
            if over {
                return;
            }
            tokio::select! {
                biased;
                () = sleep_until(next) => {}
                () = self.sooner.notified() => {}
            }
        }
    }
}

impl Inner {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn next_ms(&self) -> Instant {
        let parcel = self.parcels.first_key_value().map_or(u64::MAX, |((due, _, _), _)| *due);
        self.began + Duration::from_millis(parcel.min(self.world.next_ms()))
    }

    /// What tells one call from another, whenever it is made.
    fn signature(&self, call: &Call) -> u64 {
        let hash = Hash::new().eat(&call.life.to_le_bytes());
        match &call.what {
            Request::Kubernetes { method, path, body, .. } => {
                let hash = hash.eat(method.as_bytes()).eat(path.as_bytes());
                // Only these have bodies without times in them.
                let telling = path.ends_with("/binding") || path.ends_with("/eviction");
                let event = || {
                    let body: Value = serde_json::from_slice(body).unwrap_or_default();
                    body["metadata"]["name"].as_str().unwrap_or_default().to_owned()
                };
                if path.ends_with("/events") {
                    hash.eat(event().as_bytes()).done()
                } else if telling {
                    hash.eat(body).done()
                } else {
                    hash.done()
                }
            }
            Request::Slurm(request) => hash
                .eat(request.method.as_bytes())
                .eat(request.path.as_bytes())
                .eat(&request.body)
                .done(),
        }
    }

    fn send(&mut self, mut call: Call, reply: oneshot::Sender<Reply>) {
        if call.life != self.world.life {
            return;
        }
        call.heard_ms = self.world.rules.heard.known(self.now());
        let signature = self.signature(&call);
        let times = self.times.entry(signature).or_insert(0);
        *times += 1;
        let key = Hash::new().eat(&signature.to_le_bytes()).eat(&times.to_le_bytes()).done();
        let delay = self.world.dice.roll("there", key, 1..8);
        self.post(self.now() + delay, key, Parcel::Arrive { call, reply });
    }

    fn post(&mut self, due: u64, key: u64, parcel: Parcel) {
        self.sequence += 1;
        self.parcels.insert((due, key, self.sequence), parcel);
    }

    fn work(&mut self, now: u64) {
        self.world.pass(now);
        self.tell();
        while let Some(entry) = self.parcels.first_entry() {
            let (due, key, _) = *entry.key();
            if due > now {
                break;
            }
            match entry.remove() {
                Parcel::Arrive { call, reply } => self.arrive(now, key, &call, reply),
                Parcel::Deliver { life, reply, what, states } => {
                    if life == self.world.life {
                        if let Some(as_of) = states {
                            self.world.rules.heard.tell(now, as_of);
                        }
                        // Whoever asked may have given up.
                        drop(reply.send(what));
                    }
                }
                Parcel::Event { watch, line } => {
                    if let Some(listener) = self.listeners.get(&watch)
                        && listener.lines.send(line).is_err()
                    {
                        self.listeners.remove(&watch);
                    }
                }
            }
            self.tell();
        }
        if self.world.watches_end.take().is_some() {
            self.listeners.clear();
        }
    }

    fn arrive(&mut self, now: u64, key: u64, call: &Call, reply: oneshot::Sender<Reply>) {
        let life = call.life;
        if life != self.world.life {
            // Sent by a bridge that has died since: it may or may not have left.
            if self.world.dice.chance("left", key, 500) {
                self.world.carry_out(now, call);
            }
            return;
        }
        self.calls += 1;
        let dies = self.world.death_at(self.calls);
        if dies == Some(false) {
            return self.die(now);
        }
        let fault = self.world.fault(now, key, &call.what);
        if self.tells_all {
            self.world.note(&format!("{} {fault:?}", call.what.line()));
        }
        let what = match fault {
            Some(Fault::Silence) => return,
            Some(Fault::Refused) => Reply::Broken { sent: false },
            Some(Fault::Trouble) => trouble(&call.what),
            Some(Fault::Lie(body)) => lie(&call.what, body),
            Some(Fault::Lost) => {
                self.world.carry_out(now, call);
                Reply::Broken { sent: true }
            }
            Some(Fault::Late(_)) | None => self.answer(now, call),
        };
        if dies == Some(true) {
            return self.die(now);
        }
        let late = if let Some(Fault::Late(ms)) = fault { ms } else { 0 };
        let delay = self.world.dice.roll("back", key, 1..8) + late;
        let polled = matches!(&call.what, Request::Slurm(r) if r.path.ends_with("/jobs/state/"));
        let honest = matches!(fault, None | Some(Fault::Late(_)));
        let states = (polled && honest).then_some(now);
        self.post(now + delay, key, Parcel::Deliver { life, reply, what, states });
    }

    fn die(&mut self, now: u64) {
        self.calls = 0;
        self.listeners.clear();
        self.world.die(now);
    }

    fn answer(&mut self, now: u64, call: &Call) -> Reply {
        match self.world.carry_out(now, call) {
            Done::Slurm(response) => Reply::Slurm(response),
            Done::Kubernetes(Answer::Object(code, object)) => {
                Reply::Json(code, object.to_string().into())
            }
            Done::Kubernetes(Answer::Watch(watch)) => self.listen(now, call.life, watch),
        }
    }

    fn listen(&mut self, now: u64, life: u32, watch: Watch) -> Reply {
        let (lines, stream) = mpsc::unbounded_channel();
        if watch.since < self.world.compacted {
            // Told in the stream, not by the HTTP status; then the stream ends.
            let expired = json!({"type": "ERROR", "object": status(410, "Expired")});
            let _ = lines.send(format!("{expired}\n").into());
            return Reply::Stream(stream);
        }
        self.watches += 1;
        let id = self.watches;
        let missed: Vec<_> = self.world.store.since(watch.since).cloned().collect();
        let resource = watch.resource;
        self.listeners.insert(id, Listener { life, resource, watch, lines, last_ms: now });
        for written in missed {
            self.forward(now, id, &written);
        }
        Reply::Stream(stream)
    }

    /// Sends what was written to whoever watches.
    fn tell(&mut self) {
        let now = self.world.now;
        for written in std::mem::take(&mut self.world.store.news) {
            let of: BTreeSet<u64> = self.listeners.keys().copied().collect();
            for id in of {
                self.forward(now, id, &written);
            }
        }
    }

    fn forward(&mut self, now: u64, id: u64, written: &crate::kubernetes::Written) {
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        if listener.life != self.world.life
            || listener.resource != written.resource
            || !listener.watch.selector.takes(&written.object)
        {
            return;
        }
        let about = Hash::new().eat(&id.to_le_bytes()).eat(&written.version.to_le_bytes()).done();
        let slow = self.world.dice.chance("slow watch", about, 20);
        let delay = self.world.dice.roll("watch", about, 1..if slow { 1_500 } else { 12 });
        let due = listener.last_ms.max(now + delay);
        listener.last_ms = due;
        let mut line = format!(r#"{{"type":"{}","object":{}}}"#, written.verb, written.object);
        line.push('\n');
        // Of one watch's events of one moment the first goes first.
        let key = id << 40 | written.version;
        self.post(due, key, Parcel::Event { watch: id, line: line.into() });
    }
}

/// What came of a call.
pub(crate) enum Done {
    Kubernetes(Answer),
    Slurm(gangway_slurm::Response),
}

fn trouble(request: &Request) -> Reply {
    match request {
        Request::Kubernetes { .. } => {
            Reply::Json(500, status(500, "InternalError").to_string().into())
        }
        Request::Slurm(_) => {
            let body = json!({"errors": [{"error_number": 1800, "error": "no controller"}]});
            Reply::Slurm(gangway_slurm::Response {
                status: 502,
                is_json: true,
                body: body.to_string().into_bytes(),
            })
        }
    }
}

fn lie(request: &Request, body: &str) -> Reply {
    match request {
        Request::Kubernetes { .. } => Reply::Json(200, Bytes::copy_from_slice(body.as_bytes())),
        Request::Slurm(_) => {
            let is_json = body.starts_with('{');
            let (status, body) = (if is_json { 200 } else { 502 }, body.as_bytes().to_vec());
            Reply::Slurm(gangway_slurm::Response { status, is_json, body })
        }
    }
}
