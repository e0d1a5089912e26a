//! The fake as slurmrestd: which path asks for what, and how it says no.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::job::{GresAsked, set};
use super::{Fake, Gres, Job, Node, Shape};
use crate::{Request, Response};

/// A release that takes no heterogeneous external jobs.
const RELEASE: &str = "26.05.0";

/// What is answered: a body, or an error's status and number.
type Outcome = Result<Value, (u16, i32)>;

pub(super) fn answer(fake: &mut Fake, request: &Request) -> Response {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let [plugin @ ("slurm" | "slurmdb"), "v0.0.45", rest @ ..] = segments.as_slice() else {
        return no_such_endpoint();
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    if *plugin == "slurm" && rest == ["ping", ""] {
        return respond(Ok(ping()));
    }
    if request.token != fake.setup.token {
        return respond(Err((511, 1007)));
    }
    let outcome = match (*plugin, request.method.as_str(), rest) {
        ("slurmdb", "GET", ["job", id]) => Ok(fake.remembered(number(id))),
        ("slurmdb", "GET", ["jobs", ""]) => Ok(fake.remembered_between(query)),
        ("slurmdb", "GET", ["associations", ""]) => Ok(fake.associations(query)),
        ("slurm", "GET", ["diag", ""]) => Ok(fake.diag()),
        ("slurm", "GET", ["jobs", "state", ""]) => Ok(fake.states()),
        ("slurm", "GET", ["jobs", ""]) => Ok(fake.list(query)),
        ("slurm", "POST", ["job", "submit"]) => fake.submit(&body["job"], &request.user),
        ("slurm", "POST", ["job", "allocate"]) => fake.allocate(&body["job"], &request.user),
        ("slurm", "GET", ["job", id]) => fake.one(fake.id_of(id), query.contains("DETAIL")),
        ("slurm", "POST", ["job", id]) => fake.update(number(id), &body),
        ("slurm", "DELETE", ["job", id]) => Ok(fake.cancel(fake.id_of(id))),
        ("slurm", "GET", ["resources", id]) => fake.resources(number(id)),
        ("slurm", "GET", ["nodes", ""]) => {
            Ok(json!({"nodes": fake.nodes.keys().map(|name| fake.show(name)).collect::<Vec<_>>()}))
        }
        ("slurm", "GET", ["node", name]) if !name.is_empty() => Ok(fake.show_one(name)),
        ("slurm", "POST", ["node", name]) if !name.is_empty() => fake.change(name, &body),
        ("slurm", "DELETE", ["node", name]) if !name.is_empty() => fake.remove(name),
        ("slurm", "POST", ["new", "node", ""]) => {
            fake.create(body["node_conf"].as_str().unwrap_or_default())
        }
        ("slurm", "GET", ["partitions", ""]) => Ok(fake.partitions(None)),
        ("slurm", "GET", ["partition", name]) => Ok(fake.partitions(Some(name))),
        _ => return no_such_endpoint(),
    };
    respond(outcome)
}

fn respond(outcome: Outcome) -> Response {
    let (status, body) = match outcome {
        Ok(mut body) => {
            let answer = body.as_object_mut();
            if let Some(answer) = answer {
                answer.entry("errors").or_insert_with(|| json!([]));
                answer.entry("warnings").or_insert_with(|| json!([]));
            }
            (200, body)
        }
        Err((status, code)) => {
            let error = json!({"error_number": code, "error": format!("error {code}"),
                "description": "the fake says no"});
            (status, json!({"errors": [error], "warnings": []}))
        }
    };
    Response { status, is_json: true, body: body.to_string().into_bytes() }
}

fn no_such_endpoint() -> Response {
    let body = b"Unable to find requested URL endpoint".to_vec();
    Response { status: 404, is_json: false, body }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or(0)
}

fn ping() -> Value {
    json!({"pings": [{"hostname": "fake", "responding": true, "primary": true, "latency": 100}],
        "meta": {"slurm": {"release": RELEASE, "cluster": "fake"}}})
}

impl Fake {
    /// The id of a job that is named by its id or by its SLUID; 0 for none.
    fn id_of(&self, name: &str) -> u32 {
        self.named(name).map_or(0, |job| job.id)
    }

    fn diag(&self) -> Value {
        let counted = &self.counted;
        json!({"statistics": {
            "req_time": set(self.now_ms / 1000), "req_time_start": set(self.boot_ms / 1000),
            "jobs_pending": counted.pending, "jobs_running": counted.running,
            "job_states_ts": set(counted.at_ms / 1000), "jobs_submitted": self.submitted,
            "server_thread_count": 1, "agent_queue_size": 0}})
    }

    fn states(&self) -> Value {
        let one = |job: &Job| json!({"job_id": job.id.to_string(), "state": [job.state]});
        json!({"jobs": self.jobs.values().map(one).collect::<Vec<_>>()})
    }

    fn list(&self, query: &str) -> Value {
        let since = query.split('&').find_map(|word| word.strip_prefix("update_time="));
        if since.is_some_and(|since| since.parse().unwrap_or(0) >= self.last_update) {
            return json!({"jobs": [], "last_update": set(0),
                "warnings": [{"description": "nothing has changed"}]});
        }
        let jobs: Vec<Value> = self.jobs.values().map(|job| job.record(false)).collect();
        json!({"jobs": jobs, "last_update": set(self.last_update)})
    }

    fn one(&self, id: u32, detail: bool) -> Outcome {
        let job = self.jobs.get(&id).ok_or((404, 2017))?;
        Ok(json!({"jobs": [job.record(detail)], "last_update": set(self.last_update)}))
    }

    fn associations(&self, query: &str) -> Value {
        let asked = query.strip_prefix("user=").unwrap_or_default();
        let own = self.setup.users.iter().filter(|(user, _)| user == asked);
        let shown = own.map(|(user, account)| {
            json!({"user": user, "account": account, "cluster": "fake", "partition": "", "qos": ["normal"]})
        });
        json!({"associations": shown.collect::<Vec<_>>()})
    }

    fn remembered(&self, id: u32) -> Value {
        let of_this_id = self.accounting.values().filter(|job| job.id == id);
        json!({"jobs": of_this_id.map(Job::remembered).collect::<Vec<_>>()})
    }

    fn remembered_between(&self, query: &str) -> Value {
        let asked = |key: &str| {
            let word = query.split('&').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            word.and_then(|seconds| seconds.parse::<i64>().ok())
        };
        let from = asked("start_time").unwrap_or(0);
        let to = asked("end_time").unwrap_or(i64::MAX);
        let ran = |job: &&Job| {
            let began = job.started_ms > 0 && job.started_ms / 1000 <= to;
            began && (job.ended_ms == 0 || job.ended_ms / 1000 >= from)
        };
        let ran = self.accounting.values().filter(ran);
        json!({"jobs": ran.map(Job::remembered).collect::<Vec<_>>()})
    }

    fn resources(&self, id: u32) -> Outcome {
        let job = self.jobs.get(&id).ok_or((404, 2017))?;
        if job.is_running() { Ok(job.resources()) } else { Err((422, 2085)) }
    }

    fn submit(&mut self, asked: &Value, caller: &str) -> Outcome {
        let job = self.read(asked, caller)?;
        let chosen = asked["job_id"].as_u64().and_then(|id| u32::try_from(id).ok());
        if chosen.is_some_and(|id| self.jobs.contains_key(&id)) {
            return Err((422, 2011));
        }
        Ok(json!({"job_id": self.enqueue(job, chosen)}))
    }

    fn allocate(&mut self, asked: &Value, caller: &str) -> Outcome {
        if !asked["admin_comment"].is_null() && caller != "slurm" {
            return Err((422, 2002));
        }
        let job = self.read(asked, caller)?;
        let waits = self.jobs.values().any(Job::is_pending);
        let refusal = if waits { 2013 } else { 2016 };
        self.start_at_once(job).map(|id| json!({"job_id": id})).ok_or((422, refusal))
    }

    /// What is asked for, or why it can never be.
    fn read(&self, asked: &Value, caller: &str) -> Result<Job, (u16, i32)> {
        let text = |key: &str| asked[key].as_str().unwrap_or_default();
        let count =
            |key: &str| asked[key].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let partition = match text("partition") {
            "" => self.setup.partitions.first().map_or("", |p| p.name.as_str()),
            named => named,
        };
        if self.setup.partitions.iter().all(|p| p.name != partition) {
            return Err((422, 2000));
        }
        let user = match text("user_id") {
            "" => caller,
            named => named,
        };
        let known = self.setup.users.iter().find(|(name, _)| name == user);
        let (_, account) = known.ok_or((422, 2166))?;
        if !matches!(text("account"), "" | "default") && text("account") != account {
            return Err((422, 2045));
        }
        let shape = Shape {
            nodes: text("nodes").parse().unwrap_or(1),
            tasks_per_node: count("tasks_per_node"),
            cpus_per_task: count("cpus_per_task"),
            memory_mib: asked["memory_per_node"]["number"].as_u64().unwrap_or(1),
            gres: read_tres(text("tres_per_node"))?,
        };
        let has = |name: &str| self.nodes.values().any(|n| n.gres.iter().any(|g| g.name == name));
        if shape.gres.iter().any(|(name, _, _)| !has(name)) {
            return Err((422, 2072));
        }
        let minutes = asked["time_limit"]["number"].as_i64();
        let job = Job {
            name: text("name").to_owned(),
            partition: partition.to_owned(),
            user: user.to_owned(),
            account: account.clone(),
            external: asked["flags"].as_array().is_some_and(|f| f.contains(&json!("EXTERNAL_JOB"))),
            excluded: self.names(text("excluded_nodes"))?,
            admin_comment: text("admin_comment").to_owned(),
            comment: text("comment").to_owned(),
            limit_ms: minutes.map(|minutes| minutes * 60_000),
            shape,
            ..Job::default()
        };
        if self.fits_ever(&job) { Ok(job) } else { Err((422, 2014)) }
    }

    /// A hostlist of nodes that are there.
    fn names(&self, hostlist: &str) -> Result<BTreeSet<String>, (u16, i32)> {
        if hostlist.is_empty() {
            return Ok(BTreeSet::new());
        }
        let list = gangway_core::hostlist::Hostlist::parse(hostlist).map_err(|_| (422, 2018))?;
        let names: BTreeSet<String> = list.names().into_iter().collect();
        let known = names.iter().all(|name| self.nodes.contains_key(name));
        if known { Ok(names) } else { Err((422, 2018)) }
    }

    fn update(&mut self, id: u32, body: &Value) -> Outcome {
        let job = self.jobs.get(&id).ok_or((404, 2017))?;
        let excluded = body["excluded_nodes"][0].as_str();
        let excluded = excluded.map(|names| self.names(names)).transpose()?;
        let gres = body["tres_per_node"].as_str().map(read_tres).transpose()?;
        if (excluded.is_some() || gres.is_some()) && !job.is_pending() {
            return Err((422, 2021));
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            if let Some(text) = body["admin_comment"].as_str() {
                job.admin_comment = text.to_owned();
            }
            if let Some(excluded) = excluded {
                job.excluded = excluded;
            }
            if let Some(gres) = gres {
                job.shape.gres = gres;
            }
        }
        self.changed(id);
        self.stir();
        Ok(json!({}))
    }

    fn cancel(&mut self, id: u32) -> Value {
        let code = match self.jobs.get(&id).map(Job::is_over) {
            None => 2017,
            Some(true) => 2021,
            Some(false) => {
                self.end(id, "CANCELLED", "");
                0
            }
        };
        json!({"status": [{"error": {"code": code, "message": ""}}]})
    }

    fn show(&self, name: &str) -> Value {
        let Some(node) = self.nodes.get(name) else { return Value::Null };
        let holds = |job: &&Job| job.is_running() && job.nodes().any(|n| n == name);
        let busy: Vec<&Job> = self.jobs.values().filter(holds).collect();
        let mut state = vec![if node.down {
            "DOWN"
        } else if busy.is_empty() {
            "IDLE"
        } else {
            "MIXED"
        }];
        state.push("EXTERNAL");
        if node.drain {
            state.push("DRAIN");
        }
        let gres = |gres: &Gres| match gres.kind.as_str() {
            "" => format!("{}:{}", gres.name, gres.count),
            kind => format!("{}:{kind}:{}", gres.name, gres.count),
        };
        let taken = |gres: &Gres| {
            let held = busy.iter().flat_map(|job| &job.granted).filter(|held| held.node == name);
            let held = held.flat_map(|held| &held.gres).filter(|held| held.name == gres.name);
            gres.used(&held.flat_map(|held| held.indexes.iter().copied()).collect())
        };
        json!({
            "name": name, "hostname": name, "address": node.address, "state": state,
            "reason": node.reason, "comment": node.comment, "extra": node.extra,
            "cpus": node.cpus, "sockets": 2, "cores": node.cpus / 2, "threads": 1,
            "alloc_cpus": busy.iter().map(|job| job.shape.cpus()).sum::<u32>(),
            "real_memory": node.memory_mib,
            "gres": node.gres.iter().map(gres).collect::<Vec<_>>().join(","),
            "gres_used": node.gres.iter().map(taken).collect::<Vec<_>>().join(","),
            "partitions": if node.dynamic { Vec::new() } else {
                self.setup.partitions.iter().map(|p| p.name.as_str()).collect()
            },
        })
    }

    fn show_one(&self, name: &str) -> Value {
        match self.show(name) {
            // As the real one: 200 and a complaint without a number.
            Value::Null => json!({"errors": [{"description": "no such node"}]}),
            node => json!({"nodes": [node]}),
        }
    }

    fn change(&mut self, name: &str, body: &Value) -> Outcome {
        let node = self.nodes.get_mut(name).ok_or((422, 2018))?;
        let fields = [
            ("comment", &mut node.comment),
            ("extra", &mut node.extra),
            ("reason", &mut node.reason),
            ("address", &mut node.address),
        ];
        for (key, field) in fields {
            if let Some(text) = body[key].as_str() {
                text.clone_into(field);
            }
        }
        for state in body["state"].as_array().into_iter().flatten() {
            match state.as_str() {
                Some("DRAIN") => node.drain = true,
                Some("UNDRAIN") => node.drain = false,
                Some("RESUME") => node.down = false,
                _ => return Err((422, 2031)),
            }
        }
        self.stir();
        Ok(json!({}))
    }

    /// Those that can be removed are, whatever becomes of the others.
    fn remove(&mut self, hostlist: &str) -> Outcome {
        // In a path a hostlist's own signs are escaped.
        let hostlist = hostlist.replace("%5B", "[").replace("%5D", "]").replace("%2C", ",");
        let list = gangway_core::hostlist::Hostlist::parse(&hostlist).map_err(|_| (422, 2018))?;
        let mut outcome = Ok(json!({}));
        for name in list.iter() {
            let holds = |job: &Job| job.is_running() && job.nodes().any(|n| *n == *name);
            if self.jobs.values().any(holds) {
                outcome = Err((422, 2016));
            } else if self.nodes.remove(&*name).is_none() {
                outcome = Err((422, 2018));
            }
        }
        outcome
    }

    fn create(&mut self, conf: &str) -> Outcome {
        let word = |key: &str| {
            let mut words = conf.split_whitespace();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
        };
        let name = word("NodeName").to_owned();
        if self.nodes.contains_key(&name) {
            return Err((422, 2168));
        }
        let gres = word("Gres").split(',').filter_map(|one| {
            let words: Vec<&str> = one.split(':').collect();
            let (name, kind, count) = match words.as_slice() {
                [name, count] => (name, "", count),
                [name, kind, count] => (name, *kind, count),
                _ => return None,
            };
            let (name, kind) = ((*name).to_owned(), kind.to_owned());
            Some(Gres { name, kind, count: count.parse().ok()?, indexes: BTreeSet::new() })
        });
        let node = Node {
            cpus: number(word("CPUs")),
            memory_mib: number(word("RealMemory")).into(),
            gres: gres.collect(),
            address: word("NodeAddr").to_owned(),
            dynamic: true,
            ..Node::default()
        };
        self.nodes.insert(name, node);
        Ok(json!({}))
    }

    fn partitions(&self, only: Option<&str>) -> Value {
        let nodes: Vec<&str> =
            self.nodes.iter().filter(|(_, n)| !n.dynamic).map(|(name, _)| name.as_str()).collect();
        let wanted = self.setup.partitions.iter().filter(|p| only.is_none_or(|o| o == p.name));
        let show = |partition: &super::Partition| {
            json!({"name": partition.name, "node_sets": "", "partition": {"state": ["UP"]},
                "nodes": {"configured": nodes.join(","), "total": nodes.len()},
                "priority": {"tier": partition.tier}, "grace_time": 0})
        };
        json!({"partitions": wanted.map(show).collect::<Vec<_>>()})
    }
}

/// `gres/gpu:h100=8,gres/efa=32`.
fn read_tres(text: &str) -> Result<Vec<GresAsked>, (u16, i32)> {
    let words = text.split(',').filter(|word| !word.is_empty());
    words.map(read_gres).collect::<Option<_>>().ok_or((500, 9202))
}

/// `gres/gpu:h100=8`.
fn read_gres(word: &str) -> Option<GresAsked> {
    let (what, count) = word.strip_prefix("gres/")?.split_once('=')?;
    let (name, kind) = what.split_once(':').unwrap_or((what, ""));
    Some((name.to_owned(), kind.to_owned(), count.parse().ok()?))
}
