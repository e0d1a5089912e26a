use super::*;

const H100: &str = "NVIDIA-H100-80GB-HBM3";

fn offer<'a>(product: &'a str, gres: &'a str) -> Offer<'a> {
    Offer { product: Some(product), gres }
}

fn common(nodes: &[Offer<'_>]) -> Option<String> {
    GpuTypes::default().common(nodes.iter().copied())
}

#[test]
fn one_type_on_all_open_nodes_is_told() {
    let node = offer(H100, "gpu:h100:8(S:0-1),efa:32");
    assert_eq!(common(&[node, node]).as_deref(), Some("h100"));
    // A node without GPUs gives none anyway.
    assert_eq!(common(&[node, offer("", "efa:4"), offer("", "")]).as_deref(), Some("h100"));
    // Slurm may have other devices of that name beside them.
    let sliced = offer(H100, "gpu:h100:4,gpu:1g.10gb:28");
    assert_eq!(common(&[node, sliced]).as_deref(), Some("h100"));
    let uncounted = offer("NVIDIA-A100-MIG-1g.5gb", "gpu:1g.5gb");
    assert_eq!(common(&[uncounted]).as_deref(), Some("1g.5gb"));
    // A node that is still to join has only Slurm's word.
    let stranger = Offer { product: None, gres: "gpu:h100:8" };
    assert_eq!(common(&[stranger, node, stranger]).as_deref(), Some("h100"));
}

#[test]
fn two_types_are_none() {
    let h100 = offer(H100, "gpu:h100:8");
    assert_eq!(common(&[h100, offer("NVIDIA-A100-SXM4-80GB", "gpu:a100:8")]), None);
    assert_eq!(common(&[h100, Offer { product: None, gres: "gpu:a100:8" }]), None);
}

#[test]
fn what_is_not_known_is_none() {
    let h100 = offer(H100, "gpu:h100:8");
    assert_eq!(common(&[]), None);
    // A node that does not say, one that is called something else, one where Slurm knows no types.
    for other in [
        offer("", "gpu:h100:8"),
        offer("ACME-9000", "gpu:h100:8"),
        offer(H100, "gpu:8"),
        offer(H100, "gpu"),
        offer(H100, "gpu:a100:8"),
        offer(H100, "gpu:h100:4,gpu:4(S:0,1)"),
        Offer { product: None, gres: "gpu:8" },
    ] {
        assert_eq!(common(&[h100, other]), None, "{other:?}");
    }
    // Only strangers: no label says what a GPU is.
    assert_eq!(common(&[Offer { product: None, gres: "gpu:h100:8" }]), None);
}

#[test]
fn the_longest_part_of_a_name_counts() {
    for (product, kind) in [
        ("NVIDIA-A10", "a10"),
        ("NVIDIA-A10G", "a10g"),
        ("NVIDIA-A100-SXM4-40GB", "a100"),
        ("NVIDIA-L40S", "l40s"),
        ("NVIDIA-L4", "l4"),
        ("NVIDIA-GH200-480GB", "gh200"),
        ("NVIDIA-H200", "h200"),
        ("NVIDIA-GB200", "gb200"),
        ("NVIDIA-B200", "b200"),
        ("Tesla-T4", "t4"),
        ("Tesla-V100-SXM2-16GB-SHARED", "v100"),
        ("AMD_Instinct_MI300X_OAM", "mi300x"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "1g.10gb"),
    ] {
        let all = KNOWN.iter().map(|(_, kind)| format!("gpu:{kind}:8,"));
        let gres = all.collect::<String>() + "gpu:1g.10gb:7";
        assert_eq!(common(&[offer(product, &gres)]).as_deref(), Some(kind), "{product}");
    }
}

#[test]
fn slurms_own_spelling_is_used() {
    assert_eq!(common(&[offer(H100, "gpu:H100:8")]).as_deref(), Some("H100"));
    let found = offer(H100, "gpu:nvidia_h100_80gb_hbm3:8");
    assert_eq!(common(&[found]).as_deref(), Some("nvidia_h100_80gb_hbm3"));
}

#[test]
fn the_users_own_table_goes_before() {
    let types =
        [("h100-80gb".to_owned(), "big".to_owned()), ("ACME".to_owned(), "acme".to_owned())];
    let types = GpuTypes { types: types.into(), ..GpuTypes::default() };
    let common = |product, gres| types.common([offer(product, gres)]);
    assert_eq!(common(H100, "gpu:big:8,gpu:h100:8").as_deref(), Some("big"));
    assert_eq!(common("ACME-9000", "gpu:acme:2").as_deref(), Some("acme"));
    assert_eq!(common(H100, "gpu:h100:8"), None, "Slurm does not know the user's type");
}

#[test]
fn the_first_label_that_is_there_counts() {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let types = GpuTypes::default();
    assert_eq!(types.product(&labels(&[("nvidia.com/gpu.product", H100)])), H100);
    assert_eq!(types.product(&labels(&[("amd.com/gpu.product-name", "MI210")])), "MI210");
    assert_eq!(types.product(&labels(&[("gpu", "h100")])), "");
}

#[test]
fn only_gpus_without_a_type_are_given_one() {
    let asked = |texts: &[(&str, Option<&str>)]| Component {
        gres_per_node: texts
            .iter()
            .map(|(name, kind)| GresRequest {
                name: (*name).to_owned(),
                kind: kind.map(str::to_owned),
                count: 2,
            })
            .collect(),
        ..Component::default()
    };
    let given = |texts: &[(&str, Option<&str>)]| {
        let mut component = asked(texts);
        give(&mut component, "h100");
        component.gres_per_node.iter().map(GresRequest::to_tres).collect::<Vec<_>>().join(",")
    };
    assert_eq!(given(&[("gpu", None), ("efa", None)]), "gres/gpu:h100=2,gres/efa=2");
    assert_eq!(given(&[("gpu", Some("a100"))]), "gres/gpu:a100=2");
    assert_eq!(
        given(&[("gpu", None), ("gpu", Some("1g.5gb"))]),
        "gres/gpu:h100=2,gres/gpu:1g.5gb=2"
    );
    // The same type twice would be one.
    assert_eq!(given(&[("gpu", None), ("gpu", Some("h100"))]), "gres/gpu=2,gres/gpu:h100=2");
    assert!(wanted(&asked(&[("gpu", None)])) && !wanted(&asked(&[("gpu", Some("a100"))])));
    assert!(!wanted(&asked(&[("efa", None)])));
}

#[test]
fn a_job_that_waits_is_told_another_type_only_where_that_is_news() {
    let told = |asked, kind| retold(asked, kind);
    let any = "gres/efa=32,gres/gpu=8";
    let typed = "gres/efa=32,gres/gpu:h100=8";
    assert_eq!(told(any, Some("h100")).as_deref(), Some(typed));
    assert_eq!(told(typed, None).as_deref(), Some(any));
    assert_eq!(told(typed, Some("a100")).as_deref(), Some("gres/efa=32,gres/gpu:a100=8"));
    assert_eq!((told(any, None), told(typed, Some("h100"))), (None, None));
    // What is none of ours, or cannot be read, stays.
    for other in ["", "gres/efa=32", "gres/gpus=8", "gres/gpu:8", "gres/gpu=1,gres/gpu:1g.5gb=2"] {
        assert_eq!(told(other, Some("h100")), None, "{other}");
    }
}

#[test]
fn a_type_that_the_user_named_is_not_left_open() {
    let gres = |kinds: &[Option<&str>]| -> Vec<GresRequest> {
        let one = |kind: &Option<&str>| GresRequest {
            name: "gpu".to_owned(),
            kind: kind.map(str::to_owned),
            count: 1,
        };
        kinds.iter().map(one).collect()
    };
    assert!(left_open(&gres(&[None])));
    for kinds in [&[][..], &[Some("h100")], &[None, Some("1g.5gb")]] {
        assert!(!left_open(&gres(kinds)), "{kinds:?}");
    }
}
