//! A gang in Slurm's terms: what the placeholder asks for.
//!
//! Never asks for nodes by name (rule 12), and rounds up only: what Slurm grants is enough for the
//! pods. Members that need the same form one group; one group is a plain job, several are one
//! heterogeneous job with a component for each.

use std::collections::{BTreeSet, HashMap};

use crate::ask::Ask;
use crate::eligible;
use crate::gang::{Gang, Member};
use crate::job::{Component, GresRequest, Job, JobId, PlaceholderRequest};
use crate::placeholder::{Fnv, Stamp};
use crate::pod::Demand;
use crate::policy::{Category, Grant, Refusal};

pub mod gpu;
mod resources;

pub use resources::ResourceTable;

/// Most components of a heterogeneous job (MAX_HET_JOB_COMPONENTS in Slurm's slurm.h).
const MAX_COMPONENTS: usize = 128;

/// Members that need the same, and what each of them needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Who they are, in rank order: those that come later too.
    pub places: Vec<Place>,
    /// CPUs of one member.
    pub cpus: u32,
    /// Memory of one member, MiB.
    pub memory_mib: u64,
    /// Devices of one member.
    pub gres: Vec<GresRequest>,
    /// How many of them share a node.
    pub per_node: u32,
    /// Hostlist of nodes that are shut to one of them.
    pub shut: String,
    /// What tells this group from the others of its gang, however many of its members are there.
    mark: u64,
}

/// One member's place in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its rank in the gang.
    pub rank: u32,
    /// Its position in the gang's members; `None` while it is still to come.
    pub member: Option<usize>,
}

/// Whether a gang whose members differ may be one heterogeneous job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    /// Each group is a component of its own.
    Apart,
    /// Every member is asked for as the largest of them, resource by resource.
    Levelled,
}

impl Group {
    fn component(&self, ask: &Ask, stamp: &Stamp, apart: bool) -> Result<Component, Refusal> {
        let times = |n: u64| n.checked_mul(u64::from(self.per_node));
        let devices = |gres: &GresRequest| {
            let all = times(u64::from(gres.count)).and_then(|n| u32::try_from(n).ok());
            let count = all.ok_or_else(|| too_much(&gres.name))?;
            Ok(GresRequest { count, ..gres.clone() })
        };
        let members = u32::try_from(self.places.len()).map_err(|_| too_much("pods"))?.max(1);
        let part = apart.then_some(self.mark);
        let gres = self.gres.iter().map(devices).collect::<Result<_, _>>()?;
        Ok(Component {
            key: Stamp { part, ..stamp.clone() }.to_text(),
            nodes: members.div_ceil(self.per_node),
            tasks_per_node: self.per_node,
            cpus_per_task: self.cpus,
            memory_per_node_mib: times(self.memory_mib).ok_or_else(|| too_much("memory"))?,
            gres_per_node: ask.with_gres(gres),
            excluded_nodes: self.excluded(ask),
        })
    }

    /// The nodes that its component must not get: those that are shut to one of its members, because
    /// they are asked for alike, and those that the user does not want.
    pub fn excluded(&self, ask: &Ask) -> String {
        eligible::union(&[self.shut.as_str(), ask.exclude.as_deref().unwrap_or("")])
    }

    /// Takes in others that need the same.
    fn join(&mut self, other: Self) {
        self.places.extend(other.places);
        self.places.sort_unstable();
        self.shut = eligible::union(&[&self.shut, &other.shut]);
    }

    fn describe(&self) -> String {
        let devices = self.gres.iter().map(GresRequest::to_tres);
        let parts = [format!("cpu={}", self.cpus), format!("mem={}M", self.memory_mib)];
        parts.into_iter().chain(devices).collect::<Vec<_>>().join(",")
    }
}

/// A mark of what one member needs.
fn mark(cpus: u32, memory_mib: u64, gres: &[GresRequest]) -> u64 {
    let mut hash = Fnv::new();
    hash.eat(&cpus.to_le_bytes());
    hash.eat(&memory_mib.to_le_bytes());
    for gres in gres {
        hash.eat(gres.to_tres().as_bytes());
        hash.eat(b"\n");
    }
    hash.0
}

/// A mark of what one member of a role needs.
fn mark_of_role(need: u64, role: &str) -> u64 {
    let mut hash = Fnv::new();
    hash.eat(&need.to_le_bytes());
    hash.eat(role.as_bytes());
    hash.0
}

fn too_much(what: &str) -> Refusal {
    Refusal::new(Category::Shape, format!("the pods ask for more {what} than any node can have"))
}

/// Sorts a gang's members into groups that need the same, by the rank of their first member. Roles
/// that need the same but may not go to the same nodes are groups of their own.
pub fn groups(gang: &Gang, table: &ResourceTable, roles: Roles) -> Result<Vec<Group>, Refusal> {
    let classes = match roles {
        Roles::Apart => classes(gang, table)?,
        Roles::Levelled => None,
    };
    let Some(classes) = classes else { return Ok(vec![levelled(gang, table)?]) };
    let alike = |need: u64| {
        let mut known = classes.iter().filter(|c| c.group.mark == need);
        known.next().is_none_or(|first| known.all(|c| c.group.shut == first.group.shut))
    };
    let needs: Vec<bool> = classes.iter().map(|c| alike(c.group.mark)).collect();
    let mut groups: Vec<Group> = Vec::new();
    for (class, alike) in classes.into_iter().zip(needs) {
        let mut group = class.group;
        if !alike {
            group.mark = mark_of_role(group.mark, class.role);
        }
        match groups.iter_mut().find(|g| g.mark == group.mark) {
            Some(same) => same.join(group),
            None => groups.push(group),
        }
    }
    for group in &mut groups {
        group.per_node = per_node(gang, group.places.len());
    }
    Ok(groups)
}

/// Members of one role that need the same; the mark of its group is that of the need alone.
struct Class<'a> {
    role: &'a str,
    group: Group,
}

/// `None`: more than a heterogeneous job can have.
fn classes<'a>(gang: &'a Gang, table: &ResourceTable) -> Result<Option<Vec<Class<'a>>>, Refusal> {
    let mut found: Vec<(&Demand, &str, Vec<Place>)> = Vec::new();
    for (place, its, role) in places(gang) {
        // Members that are alike mostly stand side by side: the last class is looked at first.
        match found.iter_mut().rev().find(|(demand, r, _)| *demand == its && *r == role) {
            Some((_, _, places)) => places.push(place),
            None => found.push((its, role, vec![place])),
        }
        if found.len() > MAX_COMPONENTS {
            return Ok(None);
        }
    }
    let class =
        |(demand, role, places)| Ok(Class { role, group: group(gang, table, demand, places)? });
    found.into_iter().map(class).collect::<Result<_, _>>().map(Some)
}

/// Every member with what it needs and its role, in rank order: those that are there and those still
/// to come.
fn places(gang: &Gang) -> Vec<(Place, &Demand, &str)> {
    let there = gang.members.iter().enumerate().map(|(i, m)| {
        (Place { rank: m.rank, member: Some(i) }, asked_for(gang, m), m.role.as_str())
    });
    if gang.later.is_empty() {
        return there.collect();
    }
    let absent = gang
        .absent()
        .map(|(rank, later)| (Place { rank, member: None }, &later.demand, later.role.as_str()));
    let mut all: Vec<_> = there.chain(absent).collect();
    all.sort_by_key(|(place, _, _)| *place);
    all
}

/// What is asked for a member: its own needs, or those of the template that it was asked for by
/// before it was there. What an admission webhook adds to such a pod shares what was asked, unless
/// it is a device.
fn asked_for<'a>(gang: &'a Gang, member: &'a Member) -> &'a Demand {
    let later = gang.later.iter().find(|later| later.has(member.rank));
    let devices = |asked: &&Demand| {
        member.demand.other.iter().all(|(name, n)| asked.other.get(name) >= Some(n))
    };
    later.map(|later| &later.demand).filter(devices).unwrap_or(&member.demand)
}

/// All members as one group: each is asked for as the largest in everything.
fn levelled(gang: &Gang, table: &ResourceTable) -> Result<Group, Refusal> {
    let places = places(gang).into_iter().map(|(place, _, _)| place).collect();
    group(gang, table, &gang.largest_demand(), places)
}

fn per_node(gang: &Gang, members: usize) -> u32 {
    let members = u32::try_from(members).unwrap_or(u32::MAX).max(1);
    gang.ask.pods_per_node.unwrap_or(1).min(members)
}

fn group(
    gang: &Gang,
    table: &ResourceTable,
    demand: &Demand,
    places: Vec<Place>,
) -> Result<Group, Refusal> {
    let cpus = u32::try_from(demand.milli_cpu.div_ceil(1000)).map_err(|_| too_much("cpu"))?;
    let mut gres = table.gres(demand)?;
    for device in gres.iter_mut().filter(|g| g.name == "gpu" && g.kind.is_none()) {
        device.kind.clone_from(&gang.ask.gpu_type);
    }
    let (cpus, memory_mib) = (cpus.max(1), demand.memory.div_ceil(1 << 20).max(1));
    Ok(Group {
        per_node: per_node(gang, places.len()),
        shut: shut(gang, &places),
        places,
        mark: mark(cpus, memory_mib, &gres),
        cpus,
        memory_mib,
        gres,
    })
}

/// The nodes that are shut to one of these members.
fn shut(gang: &Gang, places: &[Place]) -> String {
    let later = |rank| gang.later.iter().find(|later| later.has(rank)).map(|later| later.reach);
    let reach = |place: &Place| match place.member {
        Some(member) => gang.members.get(member).map(|member| member.reach),
        None => later(place.rank),
    };
    let reaches: BTreeSet<usize> =
        places.iter().filter_map(reach).map(|row| row as usize).collect();
    let lists: Vec<&str> = reaches
        .into_iter()
        .filter_map(|i| gang.excluded_nodes.get(i).map(|text| &**text))
        .collect();
    eligible::union(&lists)
}

/// Turns a complete gang into the request for its placeholder.
pub fn placeholder(
    gang: &Gang,
    grant: &Grant,
    stamp: &Stamp,
    table: &ResourceTable,
    roles: Roles,
) -> Result<PlaceholderRequest, Refusal> {
    let groups = groups(gang, table, roles)?;
    if gang.ask.gpu_type.is_some() && !groups.iter().flat_map(|g| &g.gres).any(|g| g.name == "gpu")
    {
        return Err(Refusal::new(
            Category::Shape,
            "gangway.dev/gpu-type is set, but no container asks for a GPU; add limits nvidia.com/gpu or remove the annotation",
        ));
    }
    let apart = groups.len() > 1;
    let mut options = gang.ask.options.clone();
    if let Some(feature) = &grant.feature {
        options.constraints = Some(constrained(feature, options.constraints.as_deref())?);
    }
    grant.hold(PlaceholderRequest {
        name: gang.ask.job_name.clone().unwrap_or_else(|| gang.path()),
        user: grant.user.clone(),
        group: grant.group.clone(),
        account: grant.account.clone(),
        partition: grant.partition.clone().unwrap_or_default(),
        qos: grant.qos.clone(),
        time_limit_minutes: gang.ask.time_limit_minutes,
        components: groups
            .iter()
            .map(|g| g.component(&ask_of(g, &groups, &gang.ask), stamp, apart))
            .collect::<Result<_, _>>()?,
        options,
    })
}

/// What the user asks of the nodes' features, and that they are nodes for pods. Slurm reads `a&b|c` as it likes, and no
/// brackets within brackets.
fn constrained(feature: &str, asked: Option<&str>) -> Result<String, Refusal> {
    let Some(asked) = asked else { return Ok(feature.to_owned()) };
    let mut depth = 0_u32;
    let open = asked.chars().any(|c| {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '|' && depth == 0
    });
    match (open, asked.contains(['(', '['])) {
        (false, _) => Ok(format!("{feature}&{asked}")),
        (true, false) => Ok(format!("{feature}&({asked})")),
        (true, true) => Err(Refusal::new(
            Category::Shape,
            format!(
                "gangway.dev/constraints {asked} cannot be joined with the feature {feature} that all nodes for pods have; write it with each | inside one pair of brackets, as in a&(b|c)"
            ),
        )),
    }
}

/// What a group is asked for beside its needs: a GRES that some groups need is asked of those alone.
fn ask_of(group: &Group, groups: &[Group], ask: &Ask) -> Ask {
    let needs = |group: &Group, name: &str| group.gres.iter().any(|own| own.name == name);
    let mut ask = ask.clone();
    ask.gres.retain(|asked| {
        needs(group, &asked.name) || !groups.iter().any(|other| needs(other, &asked.name))
    });
    ask
}

/// What it costs that this gang's roles are levelled; `None` when its members need the same anyway.
pub fn cost_of_levelling(gang: &Gang, table: &ResourceTable) -> Option<String> {
    let apart = groups(gang, table, Roles::Apart).ok()?;
    if apart.len() == 1 {
        return None;
    }
    let all = levelled(gang, table).ok()?;
    let need = |g: &Group| mark(g.cpus, g.memory_mib, &g.gres);
    let smaller = apart.iter().filter(|g| need(g) != need(&all));
    let members: usize = smaller.map(|g| g.places.len()).sum();
    (members > 0).then(|| {
        format!(
            "this Slurm gives all pods of a gang the same, so {members} of {} pods hold more than they need ({}); Slurm 26.05.3 or newer gives each role its own",
            gang.size(),
            all.describe(),
        )
    })
}

/// The groups of a gang as they are now, each with the job that holds its nodes. `None`: a group is
/// there for which nothing was asked, because its pods were changed since.
pub fn held_by(
    gang: &Gang,
    table: &ResourceTable,
    job: &Job,
) -> Result<Option<Vec<(Group, JobId)>>, Refusal> {
    if job.parts.is_empty() {
        // One job for all: whatever its members need, they were levelled into it.
        let group = levelled(gang, table)?;
        return Ok(Some(vec![(group, job.id)]));
    }
    let mut parts: HashMap<u64, JobId> = HashMap::new();
    for part in &job.parts {
        let mark = Stamp::parse(&part.admin_comment).and_then(|stamp| stamp.part);
        parts.extend(mark.map(|mark| (mark, part.id)));
    }
    let Some(classes) = classes(gang, table)? else { return Ok(None) };
    let mut held: Vec<(Group, JobId)> = Vec::new();
    for Class { role, group } in classes {
        let own = parts.get(&mark_of_role(group.mark, role)).or_else(|| parts.get(&group.mark));
        let Some(id) = own.copied() else { return Ok(None) };
        match held.iter_mut().find(|(_, other)| *other == id) {
            Some((same, _)) => same.join(group),
            None => held.push((group, id)),
        }
    }
    for (group, _) in &mut held {
        group.per_node = per_node(gang, group.places.len());
    }
    Ok(Some(held))
}

#[cfg(test)]
#[path = "translate/tests.rs"]
mod tests;
