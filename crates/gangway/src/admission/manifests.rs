//! The same guards as admission policies, which the API server carries out itself: no webhook, no port, no certificate.
//!
//! From the lists that the webhook decides by, so that neither guards what the other forgets; a test compares
//! `manifests/admission/policies.yaml` with what is written here. What needs a SlurmPolicy, or a kind with templates
//! anywhere else than in `spec.template`, is left to the webhook and to the scheduler.

use std::fmt::Write as _;

use gangway_core::admission::{House, LOCKED, LOCKED_LABEL_PREFIX, LOCKED_PREFIX, STAMPS};
use gangway_core::names;

/// Namespaces that no guard ever looks at: the control plane's, and our own.
const NEVER: &str = "['kube-system', 'gangway']";

/// All of them, as YAML.
pub(crate) fn policies(house: &House) -> String {
    let mut out = String::from(
        "# The guards of `gangway admission` without a webhook, for API servers that serve v1 of both kinds (1.36 and newer).\n\
         # Written by `gangway admission --print-policies`; crates/gangway/src/admission/manifests.rs says how.\n",
    );
    for part in [
        mutating("gangway-pods", &pods(house)),
        mutating("gangway-tolerations", &tolerations(house)),
        mutating("gangway-templates", &templates(house)),
        validating("gangway-lock", &lock(house)),
        validating("gangway-stamps", &stamps(house)),
        validating("gangway-bindings", &bindings(house)),
    ] {
        out.push_str(&part);
    }
    out
}

fn mutating(name: &str, spec: &str) -> String {
    let kind = "MutatingAdmissionPolicy";
    format!(
        "---\napiVersion: admissionregistration.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  \
         failurePolicy: Fail\n  reinvocationPolicy: IfNeeded\n{spec}---\napiVersion: admissionregistration.k8s.io/v1\n\
         kind: {kind}Binding\nmetadata: {{name: {name}}}\nspec: {{policyName: {name}}}\n"
    )
}

fn validating(name: &str, spec: &str) -> String {
    let kind = "ValidatingAdmissionPolicy";
    format!(
        "---\napiVersion: admissionregistration.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  \
         failurePolicy: Fail\n{spec}---\napiVersion: admissionregistration.k8s.io/v1\n\
         kind: {kind}Binding\nmetadata: {{name: {name}}}\nspec: {{policyName: {name}, validationActions: [Deny]}}\n"
    )
}

/// A list in CEL.
fn list<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("'{}'", item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// Where, and by whom: never by us.
fn matching(house: &House, rules: &str, managed: bool) -> String {
    let managed = match managed {
        true => format!("\n      matchLabels: {{{}: 'true'}}", names::MANAGED_LABEL),
        false => String::new(),
    };
    format!(
        "  matchConstraints:\n    namespaceSelector:{managed}\n      \
         matchExpressions: [{{key: kubernetes.io/metadata.name, operator: NotIn, values: {NEVER}}}]\n    \
         resourceRules:\n{rules}  matchConditions:\n  \
         - {{name: not-ours, expression: \"!(request.userInfo.username in {})\"}}\n",
        list(&house.ours)
    )
}

const PODS: &str =
    "    - {apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}\n";
const TEMPLATES: &str = "    - {apiGroups: [batch], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [jobs]}\n    \
     - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [daemonsets, deployments, replicasets, statefulsets]}\n    \
     - {apiGroups: [''], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [replicationcontrollers]}\n";

const DAEMON: &str = "has(object.metadata.ownerReferences) && object.metadata.ownerReferences.exists(o, o.kind == 'DaemonSet')";
const OURS_NOW: &str = "!has(object.spec.schedulerName) || object.spec.schedulerName in ['', 'default-scheduler', '{name}']";

fn free(house: &House) -> String {
    let scheduler = OURS_NOW.replace("{name}", &house.scheduler_name);
    format!(
        "({scheduler}) && !({DAEMON}) && (!has(object.spec.nodeName) || object.spec.nodeName == '')"
    )
}

/// Who asks, and who they say they are.
fn asker(house: &House) -> String {
    format!(
        "  - {{name: maker, expression: \"request.userInfo.username in {}\"}}\n  \
         - {{name: groups, expression: \"request.userInfo.groups.filter(g, !g.contains(',')).join(',')\"}}\n",
        list(&house.makers)
    )
}

fn pods(house: &House) -> String {
    let [user, groups] = STAMPS;
    format!(
        "{}  variables:\n{}  \
         - {{name: carried, expression: \"has(object.metadata.annotations) ? object.metadata.annotations : {{}}\"}}\n  \
         - {{name: keeps, expression: \"variables.maker && '{user}' in variables.carried\"}}\n  \
         - {{name: scheduler, expression: \"({}) ? '{}' : (has(object.spec.schedulerName) ? object.spec.schedulerName : 'default-scheduler')\"}}\n  \
         mutations:\n  - patchType: ApplyConfiguration\n    applyConfiguration:\n      expression: >-\n        \
         Object{{spec: Object.spec{{schedulerName: variables.scheduler}},\n        \
         metadata: Object.metadata{{annotations: {{\n        \
         '{user}': variables.keeps ? variables.carried['{user}'] : request.userInfo.username,\n        \
         '{groups}': variables.keeps ? ('{groups}' in variables.carried ? variables.carried['{groups}'] : '') : variables.groups}}}}}}\n",
        matching(house, PODS, true),
        asker(house),
        free(house),
        house.scheduler_name,
    )
}

fn tolerations(house: &House) -> String {
    let value = house.cluster.replace(':', ".");
    let own = format!(
        "Object.spec.tolerations{{key: '{}', operator: 'Equal', value: '{value}', effect: 'NoSchedule'}}",
        names::TAINT_MANAGED
    );
    let tolerated = format!(
        "has(object.spec.tolerations) && object.spec.tolerations.exists(t, has(t.key) && t.key == '{}' && has(t.value) && t.value == '{value}')",
        names::TAINT_MANAGED
    );
    format!(
        "{}  - {{name: free, expression: \"{}\"}}\n  - {{name: not-yet, expression: \"!({tolerated})\"}}\n  \
         mutations:\n  - patchType: JSONPatch\n    jsonPatch:\n      expression: >-\n        \
         has(object.spec.tolerations)\n        \
         ? [JSONPatch{{op: 'add', path: '/spec/tolerations/-', value: {own}}}]\n        \
         : [JSONPatch{{op: 'add', path: '/spec/tolerations', value: [{own}]}}]\n",
        matching(house, PODS, true),
        free(house),
    )
}

/// Whoever changes a template asks for what comes of it.
const CHANGED: &str =
    "request.operation == 'CREATE' || object.spec.template.spec != oldObject.spec.template.spec";

fn templates(house: &House) -> String {
    let [user, groups] = STAMPS;
    format!(
        "{}  - {{name: not-a-maker, expression: \"!(request.userInfo.username in {})\"}}\n  \
         - {{name: changed, expression: \"{CHANGED}\"}}\n  variables:\n{}  \
         mutations:\n  - patchType: ApplyConfiguration\n    applyConfiguration:\n      expression: >-\n        \
         Object{{spec: Object.spec{{template: Object.spec.template{{metadata: Object.spec.template.metadata{{annotations: {{\n        \
         '{user}': request.userInfo.username, '{groups}': variables.groups}}}}}}}}}}\n",
        matching(house, TEMPLATES, true),
        list(&house.makers),
        asker(house),
    )
}

/// New and old, annotations and labels, as maps that are always there.
fn maps() -> String {
    let mut out = String::new();
    for (name, object, what) in [
        ("na", "object", "annotations"),
        ("nl", "object", "labels"),
        ("oa", "oldObject", "annotations"),
        ("ol", "oldObject", "labels"),
    ] {
        let there = format!("has({object}.metadata) && has({object}.metadata.{what})");
        let guard = match object {
            // A Binding and an Eviction are created of pods that are there.
            "oldObject" => format!("request.operation == 'UPDATE' && {there}"),
            _ => there,
        };
        // A String takes everything.
        let _ = writeln!(
            out,
            "  - {{name: {name}, expression: \"{guard} ? {object}.metadata.{what} : {{}}\"}}"
        );
    }
    out
}

/// That nothing which `locked` picks is set, changed or removed.
fn unchanged(new: &str, old: &str, locked: &str) -> String {
    format!(
        "variables.{new}.all(k, !({locked}) || (k in variables.{old} && variables.{old}[k] == variables.{new}[k])) && \
         variables.{old}.all(k, !({locked}) || k in variables.{new})"
    )
}

fn lock(house: &House) -> String {
    let rules = "    - {apiGroups: [''], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods, 'pods/*']}\n";
    let annotations = format!("k in {} || k.startsWith('{LOCKED_PREFIX}')", list(LOCKED));
    let labels = format!("k.startsWith('{LOCKED_LABEL_PREFIX}')");
    format!(
        "{}  variables:\n{}  validations:\n  - expression: \"{}\"\n    \
         message: \"gangway: annotations that only gangway writes; leave them as they are, or remove them from what you apply\"\n    \
         reason: Forbidden\n  - expression: \"{}\"\n    \
         message: \"gangway: labels that only gangway writes; leave them as they are, or remove them from what you apply\"\n    \
         reason: Forbidden\n",
        matching(house, rules, false),
        maps(),
        unchanged("na", "oa", &annotations),
        unchanged("nl", "ol", &labels),
    )
}

/// A stamp is that of who asks, or of a maker's template, or the one that was there. Outside the namespaces of ours
/// nobody writes one, so that none is there when a namespace becomes ours.
fn stamps(house: &House) -> String {
    let rules = "    - {apiGroups: [''], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods, pods/status]}\n";
    let [user, groups] = STAMPS;
    let stamped = format!("k in {}", list(&STAMPS));
    format!(
        "{}  variables:\n{}{}  \
         - {{name: own, expression: \"('{user}' in variables.na) && variables.na['{user}'] == request.userInfo.username && \
         (!('{groups}' in variables.na) || variables.na['{groups}'] == '' || variables.na['{groups}'].split(',').all(g, g in request.userInfo.groups))\"}}\n  \
         - {{name: none, expression: \"!variables.na.exists(k, {stamped})\"}}\n  \
         validations:\n  - expression: \"request.operation == 'CREATE' ? (variables.maker || variables.own || variables.none) : ({})\"\n    \
         message: \"gangway: who asked is written by gangway's admission alone; remove gangway.dev/requester from what you apply\"\n    \
         reason: Forbidden\n",
        matching(house, rules, false),
        maps(),
        asker(house),
        unchanged("na", "oa", &stamped),
    )
}

fn bindings(house: &House) -> String {
    let rules = "    - {apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods, pods/binding]}\n";
    let binding = "request.?subResource.orValue('') == 'binding'";
    let tolerant = format!(
        "has(object.spec.tolerations) && object.spec.tolerations.exists(t, has(t.key) && t.key == '{}')",
        names::TAINT_MANAGED
    );
    format!(
        "{}  validations:\n  - expression: \"!({binding}) || request.userInfo.username in {}\"\n    \
         message: \"gangway: Slurm decides where pods run here; nobody else binds them\"\n    reason: Forbidden\n  \
         - expression: \"{binding} || !has(object.spec.nodeName) || object.spec.nodeName == '' || 'system:nodes' in request.userInfo.groups || ({DAEMON})\"\n    \
         message: \"gangway: spec.nodeName is set: in this namespace Slurm decides where pods run; remove it\"\n    reason: Forbidden\n  \
         - expression: \"{binding} || !({tolerant}) || object.spec.schedulerName == '{}' || ({DAEMON})\"\n    \
         message: \"gangway: it tolerates the taint of nodes that Slurm gives out, and is not scheduled by gangway; remove the toleration\"\n    reason: Forbidden\n",
        matching(house, rules, true),
        list(&house.binders),
        house.scheduler_name,
    )
}

#[cfg(test)]
mod tests {
    use gangway_core::admission::MAKERS_OF_PODS;

    use super::*;
    use crate::config::{AdmissionFlags, AdmissionSettings};

    fn house() -> House {
        let flags = AdmissionFlags { print_policies: true, ..AdmissionFlags::default() };
        AdmissionSettings::load(&flags).expect("the defaults are usable").house
    }

    #[test]
    fn the_manifest_is_what_is_written_here() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/admission/policies.yaml");
        let wanted = policies(&house());
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == wanted,
            "manifests/admission/policies.yaml is not what `gangway admission --print-policies` writes"
        );
    }

    #[test]
    fn the_webhook_is_asked_of_every_kind_that_core_guards() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/admission/webhook.yaml");
        let text = std::fs::read_to_string(path).expect("the manifest is there");
        for (group, resources) in MAKERS_OF_PODS {
            let group = if group.is_empty() { "''" } else { group };
            let resources =
                format!("operations: [CREATE, UPDATE], resources: [{}]", resources.join(", "));
            let rules = text.lines().filter(|line| {
                line.contains(&format!("apiGroups: [{group}]")) && line.contains(&resources)
            });
            assert_eq!(rules.count(), 2, "{group} {resources}: to change and to look at");
        }
        assert!(text.contains("resources: [pods, 'pods/*']"), "subresources carry metadata too");
    }

    #[test]
    fn every_name_that_the_webhook_guards_is_guarded_here() {
        let text = policies(&house());
        let names = LOCKED.iter().chain(&STAMPS).chain([&LOCKED_PREFIX, &LOCKED_LABEL_PREFIX]);
        for name in names {
            assert!(text.contains(&format!("'{name}'")), "{name}");
        }
        for user in house().ours.iter().chain(&house().makers).chain(&house().binders) {
            assert!(text.contains(&format!("'{user}'")), "{user}");
        }
        assert!(text.contains("'pods/*'"), "subresources carry metadata too");
    }
}
