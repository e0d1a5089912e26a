//! Devices that a binding will take which is on its way to the API server (rule 4).
//!
//! A binding may be slow, and meanwhile its job may end and Slurm give the devices to another gang. So they are
//! held from before the binding is sent: until the pod is seen bound or gone, or the API server has said no, or
//! so long that the request cannot be carried out any more. It sends nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use gangway_core::place::Seat;
use tokio::time::Instant;

use super::Index;

/// The API server gives up a request after a minute.
const LONGEST: Duration = Duration::from_secs(70);

/// A device: Kubernetes' name of its node, GRES and index.
type Device = (String, String, u32);

/// What is promised to whom.
#[derive(Debug, Default)]
pub(super) struct Promises {
    /// By pod uid, and until when.
    to: HashMap<String, (Vec<Device>, Instant)>,
    /// The pods that were promised a device; one whose time is up counts no more.
    of: HashMap<Device, BTreeSet<String>>,
}

impl Promises {
    /// Another pod to which this device is promised.
    pub(super) fn holder(&self, device: &Device, but: &str, now: Instant) -> Option<&str> {
        let mut pods = self.of.get(device)?.iter().map(String::as_str);
        pods.find(|uid| *uid != but && self.to.get(*uid).is_some_and(|(_, until)| now < *until))
    }

    fn keep(&mut self, uid: &str, devices: Vec<Device>, until: Instant) {
        self.drop(uid);
        for device in &devices {
            self.of.entry(device.clone()).or_default().insert(uid.to_owned());
        }
        self.to.insert(uid.to_owned(), (devices, until));
    }

    /// Whether there was one.
    pub(super) fn drop(&mut self, uid: &str) -> bool {
        let Some((devices, _)) = self.to.remove(uid) else { return false };
        for device in devices {
            if let Some(pods) = self.of.get_mut(&device) {
                pods.remove(uid);
                if pods.is_empty() {
                    self.of.remove(&device);
                }
            }
        }
        true
    }
}

impl Index {
    /// Holds the devices of a seat for a pod whose binding is about to be sent. `Err`: the pod, as
    /// `namespace/name`, that holds one of them.
    pub(crate) fn promise(
        &mut self,
        uid: &str,
        node: &str,
        seat: &Seat,
        now: Instant,
    ) -> Result<(), String> {
        let devices = seat.indexes.iter();
        let devices = devices.flat_map(|(gres, all)| all.iter().map(move |index| (gres, *index)));
        let devices: Vec<Device> =
            devices.map(|(gres, index)| (node.to_owned(), gres.clone(), index)).collect();
        match devices.iter().find_map(|device| self.holder(device, uid, now)) {
            Some(holder) => Err(holder),
            None => {
                self.promises.keep(uid, devices, now + LONGEST);
                Ok(())
            }
        }
    }

    /// The binding will not be made: its devices are free. Whether they were held.
    pub(crate) fn withdraw(&mut self, uid: &str) -> bool {
        self.promises.drop(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bound, pod, seat, spot, with_node};
    use super::*;
    use gangway_core::follow::Spot;

    #[test]
    fn a_device_is_held_while_a_binding_is_on_its_way() {
        let now = Instant::now();
        let (taken, free) =
            (Spot::Taken { by: "team/a".to_owned() }, Spot::Free("kube-1".to_owned()));
        let mut index = with_node();
        index.put_pod(pod("a"));
        assert_eq!(index.promise("a", "kube-1", &seat(&[0, 1]), now), Ok(()));
        assert_eq!(index.promise("a", "kube-1", &seat(&[0, 1]), now), Ok(()), "sent again");
        assert_eq!(index.promise("b", "kube-1", &seat(&[1, 2]), now), Err("team/a".to_owned()));
        assert_eq!(index.promise("b", "kube-1", &seat(&[2, 3]), now), Ok(()));
        assert_eq!(
            (spot(&index, "b", &[1]), spot(&index, "a", &[1])),
            (taken.clone(), free.clone())
        );
        // Seen, but not yet bound.
        index.put_pod(pod("a"));
        assert_eq!(spot(&index, "b", &[1]), taken);
        // Seen bound: what it holds is what it says.
        index.put_pod(bound("a", "0"));
        assert_eq!(
            (spot(&index, "b", &[0]), spot(&index, "b", &[1])),
            (taken.clone(), free.clone())
        );
        // The API server says no, or the pod goes.
        assert!(index.promise("c", "kube-1", &seat(&[1]), now).is_ok() && index.withdraw("c"));
        assert_eq!(spot(&index, "b", &[1]), free);
        index.put_pod(pod("c"));
        assert_eq!(index.promise("c", "kube-1", &seat(&[1]), now), Ok(()));
        index.drop_pod("c");
        assert_eq!(spot(&index, "b", &[1]), free);
    }

    #[test]
    fn a_promise_ends_when_its_request_cannot_be_carried_out_any_more() {
        let now = Instant::now();
        let mut index = with_node();
        index.put_pod(pod("a"));
        assert_eq!(index.promise("a", "kube-1", &seat(&[0]), now), Ok(()));
        let just = now + LONGEST - Duration::from_millis(1);
        assert!(index.promise("b", "kube-1", &seat(&[0]), just).is_err());
        assert_eq!(index.promise("b", "kube-1", &seat(&[0]), now + LONGEST), Ok(()));
    }
}
