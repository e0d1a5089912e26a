//! Volumes: a pod goes where its claims are, and claims that wait for their pod are made where it goes.
//!
//! The story is the provisioner: it makes the volume once a claim names its node, as
//! external-provisioner does, and the real volume controller binds the two.

use std::time::Duration;

use gangway_core::job::BaseState;
use gangway_core::names::SELECTED_NODE;
use gangway_tests::{Nodes, Pod, SOON, Story, manifest, stays, wait};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// Classes and volumes belong to no namespace: their names carry the story's.
pub(crate) struct Storage<'a> {
    pub(crate) story: &'a Story,
}

impl Storage<'_> {
    pub(crate) fn class(&self) -> String {
        format!("{}-disk", self.story.cluster)
    }

    fn api<K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>>(
        &self,
    ) -> Api<K> {
        Api::all(self.story.kube.client.clone())
    }

    pub(crate) async fn make_class(&self, mode: &str, zones: &[&str]) {
        let topologies = json!([{"matchLabelExpressions": [{"key": ZONE, "values": zones}]}]);
        let class: StorageClass = serde_json::from_value(json!({
            "metadata": {"name": self.class()},
            "provisioner": "disk.example.com",
            "volumeBindingMode": mode,
            "allowedTopologies": if zones.is_empty() { Value::Null } else { topologies },
        }))
        .expect("a class");
        self.api().create(&PostParams::default(), &class).await.expect("a new class");
    }

    pub(crate) async fn make_claim(&self, name: &str, class: &str) {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        self.story.kube.create(&claim).await;
    }

    async fn claim(&self, name: &str) -> PersistentVolumeClaim {
        let claims: Api<PersistentVolumeClaim> = self.story.kube.api();
        claims.get(name).await.expect("the claim is there")
    }

    fn selected(claim: &PersistentVolumeClaim) -> Option<&String> {
        claim.metadata.annotations.as_ref()?.get(SELECTED_NODE)
    }

    /// Waits until a claim names its node.
    pub(crate) async fn wait_selected(&self, name: &str) -> String {
        wait(&format!("claim {name} names a node"), SOON, async || {
            let claim = self.claim(name).await;
            Self::selected(&claim).cloned().ok_or_else(|| format!("{:?}", claim.metadata))
        })
        .await
    }

    /// What a provisioner does where it cannot make the volume.
    async fn fail(&self, name: &str) {
        let none = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
        let claims: Api<PersistentVolumeClaim> = self.story.kube.api();
        let patched = claims.patch(name, &PatchParams::default(), &Patch::Merge(&none)).await;
        patched.expect("the claim is there");
    }

    /// Makes the volume of a claim, in a zone.
    pub(crate) async fn provision(&self, name: &str, zone: &str) {
        let claim = self.claim(name).await;
        let uid = claim.metadata.uid.expect("a uid");
        let volume: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": format!("pvc-{uid}"), "annotations": {
                "pv.kubernetes.io/provisioned-by": "disk.example.com"
            }},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": claim.spec.and_then(|spec| spec.storage_class_name),
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name,
                    "namespace": self.story.kube.namespace, "uid": uid,
                },
                "csi": {"driver": "disk.example.com", "volumeHandle": uid},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": ZONE, "operator": "In", "values": [zone]}
                ]}]}},
            },
        }))
        .expect("a volume");
        self.api().create(&PostParams::default(), &volume).await.expect("a new volume");
        wait(&format!("claim {name} is bound"), SOON, async || {
            let phase = self.claim(name).await.status.and_then(|status| status.phase);
            if phase.as_deref() == Some("Bound") { Ok(()) } else { Err(format!("{phase:?}")) }
        })
        .await;
    }

    /// Takes away what belongs to no namespace.
    pub(crate) async fn clear(&self, claims: &[&str]) {
        for claim in claims {
            let uid = self.claim(claim).await.metadata.uid.expect("a uid");
            let volumes: Api<PersistentVolume> = self.api();
            // One that was never made is fine.
            let _ = volumes.delete(&format!("pvc-{uid}"), &DeleteParams::default()).await;
        }
        let classes: Api<StorageClass> = self.api();
        // So is a class.
        let _ = classes.delete(&self.class(), &DeleteParams::default()).await;
    }
}

/// A pod of a group with a claim of its own.
fn member(name: &str, group: &str, claim: &str) -> Value {
    let mut pod = manifest::pod_of_group(name, group, &manifest::template(8, &[]));
    pod["spec"]["volumes"] =
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    pod
}

async fn two_zones(story: &Story) -> Nodes {
    let nodes = Nodes::of(story);
    nodes.label(&Nodes::p5(1, 8), ZONE, "a").await;
    nodes.label(&Nodes::p5(9, 16), ZONE, "b").await;
    nodes
}

fn node(pod: &Pod) -> String {
    pod.node.clone().expect("a bound pod")
}

#[tokio::test]
async fn claims_that_wait_for_their_pods_are_made_where_slurm_puts_them() {
    let Some(story) = Story::begin("wffc").await else { return };
    let _nodes = two_zones(&story).await;
    let storage = Storage { story: &story };
    storage.make_class("WaitForFirstConsumer", &["b"]).await;
    for claim in ["data-0", "data-1"] {
        storage.make_claim(claim, &storage.class()).await;
    }
    story.kube.create(&manifest::pod_group("pair", 2)).await;
    story.kube.create(&member("pair-0", "pair", "data-0")).await;
    story.kube.create(&member("pair-1", "pair", "data-1")).await;
    let chosen = [storage.wait_selected("data-0").await, storage.wait_selected("data-1").await];
    assert!(chosen.iter().all(|node| Nodes::p5(9, 16).contains(node)), "{chosen:?}");
    assert_ne!(chosen[0], chosen[1]);
    let live = story.slurm.live().await;
    assert_eq!(live.len(), 1);
    let job = story.slurm.reaches(live[0].1.id.0, BaseState::Running).await;
    let pods = story.told("pair-", "waiting for the volumes of claims").await;
    story.note(&pods[0].why());

    // One volume is not enough: all of the gang or none.
    storage.provision("data-0", "b").await;
    stays("nobody is bound", Duration::from_secs(1), async || {
        let bound = story.pods("pair-").await.iter().filter(|pod| pod.node.is_some()).count();
        if bound == 0 { Ok(()) } else { Err(format!("{bound} are")) }
    })
    .await;
    // The provisioner gives up once; the claim is told its node again.
    storage.fail("data-1").await;
    let again = storage.wait_selected("data-1").await;
    assert_eq!(again, chosen[1], "Slurm's word has not changed");
    storage.provision("data-1", "b").await;
    let pods = story.bound("pair-", 2).await;
    assert_eq!(story.seated(&pods).await.id, job.id);
    assert_eq!([node(&pods[0]), node(&pods[1])], chosen);
    storage.clear(&["data-0", "data-1"]).await;
    story.end().await;
}

#[tokio::test]
async fn a_pod_goes_where_its_volume_is() {
    let Some(story) = Story::begin("bound-pv").await else { return };
    let _nodes = two_zones(&story).await;
    let storage = Storage { story: &story };
    storage.make_class("Immediate", &[]).await;
    // The pod is there before its claim, and the claim before its volume.
    let mut pod = manifest::pod("reader", &manifest::template(8, &[]));
    pod["spec"]["volumes"] =
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    story.kube.create(&pod).await;
    story.told("reader", "does not exist; create it").await;
    storage.make_claim("data", &storage.class()).await;
    story.told("reader", "is not bound yet").await;
    assert!(story.slurm.placeholders().await.is_empty());
    storage.provision("data", "b").await;
    let pods = story.bound("reader", 1).await;
    let job = story.seated(&pods).await;
    assert!(Nodes::p5(9, 16).contains(&node(&pods[0])), "{:?}", pods[0].node);
    assert_eq!(job.excluded_nodes, "p5-[0001-0008]");
    storage.clear(&["data"]).await;
    story.end().await;
}

#[tokio::test]
async fn a_volume_that_came_up_elsewhere_moves_its_gang() {
    let Some(story) = Story::begin("moved-pv").await else { return };
    let _nodes = two_zones(&story).await;
    let storage = Storage { story: &story };
    storage.make_class("WaitForFirstConsumer", &[]).await;
    storage.make_claim("data", &storage.class()).await;
    story.kube.create(&manifest::pod_group("one", 1)).await;
    story.kube.create(&member("one-0", "one", "data")).await;
    let chosen = storage.wait_selected("data").await;
    let elsewhere = if Nodes::p5(1, 8).contains(&chosen) { "b" } else { "a" };
    let first = story.slurm.live().await[0].1.id;
    storage.provision("data", elsewhere).await;
    let pods = story.bound("one-", 1).await;
    assert_ne!(story.seated(&pods).await.id, first, "another placeholder");
    let there = if elsewhere == "a" { Nodes::p5(1, 8) } else { Nodes::p5(9, 16) };
    assert!(there.contains(&node(&pods[0])), "{:?} is not in {elsewhere}", pods[0].node);
    storage.clear(&["data"]).await;
    story.end().await;
}
