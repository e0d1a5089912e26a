//! Which devices of one node are near each other, by instance type.
//!
//! A GPU reaches the network cards behind its own PCIe switch without passing the CPU, and those of
//! its own socket without passing to the other. Members that share a node should get such devices
//! together.
//!
//! The shape is the same for all types known: switches of equal size, sockets of equal numbers of
//! switches, devices numbered in the order of the switches.
//!
//! | instance types | wiring | source |
//! |---|---|---|
//! | p4d.24xlarge, p4de.24xlarge | 2 sockets x 2 switches, each 2 GPUs and 1 EFA | aws/aws-ofi-nccl, topology/p4d-24xl-topo.xml |
//! | p5.48xlarge | 2 sockets x 4 switches, each 1 GPU and 4 EFAs | aws/aws-ofi-nccl, topology/p5.48xl-topo.xml |
//! | p5e.48xlarge | as p5: the same 8 GPUs and 32 network cards | EC2 User Guide, "efa-acc-inst-types"; the wiring is taken over, not documented |
//! | p5en.48xlarge | 8 GPUs, 16 EFAs | counts only; even shares assumed |
//! | trn1.32xlarge, trn1n.32xlarge | 16 devices, 8 and 16 EFAs | Neuron docs, "How to prepare trn1.32xlarge"; counts only, even shares assumed |
//! | trn2.48xlarge, trn2u.48xlarge | 16 devices, 16 EFAs | Neuron docs, "Trn2 Architecture" for the devices; the EFAs from memory, even shares assumed |
//!
//! Where even shares are assumed and wrong, members still get devices of their own, only not the
//! nearest. `topology.layouts` in the configuration adds types and goes over this table.

use std::collections::BTreeMap;

/// How the devices of one instance type are wired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// As in the node label `node.kubernetes.io/instance-type`.
    pub instance_type: String,
    /// PCIe switches; at least 1.
    pub switches: u32,
    /// CPU sockets (NUMA nodes); at least 1, and a divisor of `switches`.
    pub sockets: u32,
    /// How many devices there are, by GRES name.
    pub devices: BTreeMap<String, u32>,
}

impl Layout {
    /// The types that are known without configuration.
    pub fn known() -> Vec<Self> {
        let gpus: &[(&str, u32, u32, u32)] = &[
            ("p4d.24xlarge", 4, 8, 4),
            ("p4de.24xlarge", 4, 8, 4),
            ("p5.48xlarge", 8, 8, 32),
            ("p5e.48xlarge", 8, 8, 32),
            ("p5en.48xlarge", 8, 8, 16),
        ];
        let neurons: &[(&str, u32, u32, u32)] = &[
            ("trn1.32xlarge", 8, 16, 8),
            ("trn1n.32xlarge", 16, 16, 16),
            ("trn2.48xlarge", 16, 16, 16),
            ("trn2u.48xlarge", 16, 16, 16),
        ];
        let of = |gres: &'static str| {
            move |(name, switches, devices, efas): &(&str, u32, u32, u32)| Self {
                instance_type: (*name).to_owned(),
                switches: *switches,
                sockets: 2,
                devices: BTreeMap::from([(gres.to_owned(), *devices), ("efa".to_owned(), *efas)]),
            }
        };
        gpus.iter().map(of("gpu")).chain(neurons.iter().map(of("neuron"))).collect()
    }

    /// The devices of one GRES behind one switch, as bits; 0 where the type has none of that name.
    pub fn behind(&self, switch: u32, gres: &str) -> u128 {
        let count = self.devices.get(gres).copied().unwrap_or(0).min(u128::BITS);
        let below = |switch: u32| (switch * count).div_ceil(self.switches);
        let bits = |devices: u32| u128::MAX.checked_shr(u128::BITS - devices).unwrap_or(0);
        bits(below(switch + 1)) & !bits(below(switch))
    }

    /// The socket of a switch.
    pub fn socket(&self, switch: u32) -> u32 {
        switch * self.sockets / self.switches
    }
}

/// Whether a GRES is network cards: they serve the devices beside them.
pub(crate) fn is_network(gres: &str) -> bool {
    gres == "efa"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_types_are_wired_as_their_sources_say() {
        let known = Layout::known();
        let of = |name: &str| known.iter().find(|l| l.instance_type == name).expect("known");
        let p5 = of("p5.48xlarge");
        assert_eq!((p5.behind(0, "gpu"), p5.behind(0, "efa")), (0b1, 0xf));
        assert_eq!((p5.behind(7, "gpu"), p5.behind(7, "efa")), (1 << 7, 0xf << 28));
        assert_eq!((p5.socket(3), p5.socket(4)), (0, 1));
        let p4d = of("p4d.24xlarge");
        assert_eq!((p4d.behind(1, "gpu"), p4d.behind(1, "efa")), (0b1100, 0b10));
        assert_eq!((p4d.socket(1), p4d.socket(2)), (0, 1));
        assert_eq!(of("trn1.32xlarge").behind(7, "neuron"), 0b11 << 14);
        assert_eq!(p5.behind(0, "neuron"), 0);
    }

    #[test]
    fn every_device_is_behind_exactly_one_switch() {
        for layout in Layout::known() {
            for (gres, count) in &layout.devices {
                let sum: u128 = (0..layout.switches).map(|s| layout.behind(s, gres)).sum();
                assert_eq!(sum, (1 << count) - 1, "{gres} of {}", layout.instance_type);
            }
        }
    }
}
