//! The pod templates of a workload as roles of its gang: which are ours, and what their pods will
//! need before there is one.

use serde_json::Value;

use super::Role;
use crate::pod::PodSpec;

/// One pod template and how many pods are made from it.
pub(super) struct Template<'a> {
    pub(super) name: &'a str,
    pub(super) count: u32,
    /// The template's pod spec; `Null` where it cannot be found.
    pub(super) spec: &'a Value,
}

impl<'a> Template<'a> {
    /// The template at `pointer` below `parent`, which leads to a pod template.
    pub(super) fn at(name: &'a str, count: u32, parent: &'a Value, pointer: &str) -> Self {
        let spec = parent.pointer(pointer).and_then(|t| t.get("spec")).unwrap_or(&Value::Null);
        Self { name, count, spec }
    }

    fn scheduler(&self) -> Option<&'a str> {
        self.spec.get("schedulerName").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// As a role whose pods come with the others.
    pub(super) fn role(&self) -> Role {
        Role { name: self.name.to_owned(), count: self.count, ..Role::default() }
    }

    /// As a role whose pods come when others are ready. A template that cannot be read
    /// requests nothing, which is refused where the gang is formed.
    pub(super) fn later(&self) -> Role {
        let spec = serde_json::from_value::<PodSpec>(self.spec.clone()).unwrap_or_default();
        Role { later: Some(Box::new(spec)), ..self.role() }
    }
}

/// The templates whose pods are for `scheduler` and of which there is at least one. Where some
/// say so in so many words, the others are for somebody else; where none does, the name is put on
/// the pods by an admission policy, and all are ours that do not name another.
pub(super) fn ours<'a>(mut templates: Vec<Template<'a>>, scheduler: &str) -> Vec<Template<'a>> {
    templates.retain(|t| t.count > 0);
    let named = templates.iter().any(|t| t.scheduler() == Some(scheduler));
    templates.retain(|t| match t.scheduler() {
        Some(name) => name == scheduler,
        None => !named,
    });
    templates
}
