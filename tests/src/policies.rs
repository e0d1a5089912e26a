//! SlurmPolicies of a story: cluster-wide objects, so each is named after the story's bridge and goes with it.

use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

use crate::story::Story;
use crate::wait::{SOON, wait};

/// The policies of one story.
pub struct Policies {
    api: Api<DynamicObject>,
    name: String,
}

impl Policies {
    /// Teaches the API server the kind, where it does not know it yet.
    pub async fn of(story: &Story) -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds/slurmpolicies.yaml");
        story.kubectl(&["apply", "--server-side", "-f", path]);
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk("gangway.dev", "v1alpha1", "SlurmPolicy"));
        let api: Api<DynamicObject> = Api::all_with(story.kube.client.clone(), &resource);
        wait("SlurmPolicies are served", SOON, async || {
            api.list(&Default::default()).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { api, name: story.cluster.clone() }
    }

    /// Whether the API server would take a policy with this specification, and if not, why.
    pub async fn tried(&self, spec: &Value) -> Result<(), String> {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let made = self.api.create(&dry, &self.object("tried", spec)).await;
        made.map(drop).map_err(|error| error.to_string())
    }

    /// Makes one; `which` tells it from others of the story.
    pub async fn make(&self, which: &str, spec: &Value) {
        let made = self.api.create(&PostParams::default(), &self.object(which, spec)).await;
        made.expect("the API server takes the policy");
    }

    /// Changes one.
    pub async fn change(&self, which: &str, spec: &Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        let name = format!("{}-{which}", self.name);
        let changed = self.api.patch(&name, &PatchParams::default(), &patch).await;
        changed.expect("the API server takes the change");
    }

    /// One as it is now.
    pub async fn get(&self, which: &str) -> Value {
        let got = self.api.get(&format!("{}-{which}", self.name)).await;
        serde_json::to_value(got.expect("the policy is there")).expect("an object is JSON")
    }

    /// Takes one away.
    pub async fn drop(&self, which: &str) {
        let name = format!("{}-{which}", self.name);
        let gone = self.api.delete(&name, &DeleteParams::default()).await;
        gone.expect("the policy can be deleted");
    }

    fn object(&self, which: &str, spec: &Value) -> DynamicObject {
        let object = json!({
            "apiVersion": "gangway.dev/v1alpha1", "kind": "SlurmPolicy",
            "metadata": {"name": format!("{}-{which}", self.name)}, "spec": spec,
        });
        serde_json::from_value(object).expect("a policy is an object")
    }
}
