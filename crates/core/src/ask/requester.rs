//! Who asked for pods, as admission stamped them.
//!
//! Only text here: whether it is believed is for [`crate::policy`].

use std::collections::{BTreeMap, BTreeSet};

use crate::names;

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// User names: one, but where several users made the pods of one gang.
    pub users: BTreeSet<String>,
    /// Groups that all of them are in.
    pub groups: BTreeSet<String>,
}

impl Requester {
    /// What a pod says of who asked for it.
    pub fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let user = annotations.get(names::REQUESTER)?;
        let groups = annotations.get(names::REQUESTER_GROUPS).map_or("", String::as_str);
        let groups = groups.split(',').filter(|group| !group.is_empty());
        Some(Self {
            users: BTreeSet::from([user.clone()]),
            groups: groups.map(str::to_owned).collect(),
        })
    }

    /// Both together: whoever shares a gang has no more than either has alone.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.users.extend(other.users);
        self.groups.retain(|group| other.groups.contains(group));
        self
    }

    /// For people.
    pub fn name(&self) -> String {
        self.users.iter().map(String::as_str).collect::<Vec<_>>().join(" and ")
    }
}
