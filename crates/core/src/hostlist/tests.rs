use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

/// Parses, and shows the names or the error, the folded text and the sorted text.
fn check(text: &str, expect: &Expect) {
    let shown = match Hostlist::parse(text) {
        Ok(list) => format!("{} | {list} | {}", list.names().join(" "), list.sorted()),
        Err(error) => error.to_string(),
    };
    expect.assert_eq(&shown);
}

fn problem(text: &str) -> (Problem, usize) {
    let error = Hostlist::parse(text).unwrap_err();
    (error.problem, error.at)
}

#[test]
fn ranges_and_padding() {
    check("n[1-3],m", &expect!["n1 n2 n3 m | n[1-3],m | m,n[1-3]"]);
    check("n[08-11]", &expect!["n08 n09 n10 n11 | n[08-11] | n[08-11]"]);
    check("n[1,3-4,007]", &expect!["n1 n3 n4 n007 | n[1,3-4,007] | n[1,3-4,007]"]);
    check("n[9-0011]", &expect!["n9 n10 n11 | n[9-11] | n[9-11]"]);
    check("n[99-101],n[099]", &expect!["n99 n100 n101 n099 | n[99-101,099] | n[99,099-101]"]);
    check("[001-003],7", &expect!["001 002 003 7 | [001-003,7] | [7,001-003]"]);
}

#[test]
fn several_brackets_turn_in_slurms_order() {
    check(
        "r[1-2]n[01-02]",
        &expect!["r1n01 r1n02 r2n01 r2n02 | r1n[01-02],r2n[01-02] | r1n[01-02],r2n[01-02]"],
    );
    check(
        "a[1-2]b[3-4]c[5-6]",
        &expect![
            "a1b3c5 a1b3c6 a2b3c5 a2b3c6 a1b4c5 a1b4c6 a2b4c5 a2b4c6 | a1b3c[5-6],a2b3c[5-6],a1b4c[5-6],a2b4c[5-6] | a1b3c[5-6],a1b4c[5-6],a2b3c[5-6],a2b4c[5-6]"
        ],
    );
    check(
        "a[1,5-6]b[3,2]c",
        &expect![
            "a1b3c a1b2c a5b3c a5b2c a6b3c a6b2c | a1b3c,a1b2c,a5b3c,a5b2c,a6b3c,a6b2c | a1b2c,a1b3c,a5b2c,a5b3c,a6b2c,a6b3c"
        ],
    );
}

#[test]
fn text_after_a_bracket() {
    check("n[9-10]-ib", &expect!["n9-ib n10-ib | n9-ib,n10-ib | n9-ib,n10-ib"]);
    check("n[1-2]03,n204", &expect!["n103 n203 n204 | n[103,203-204] | n[103,203-204]"]);
}

#[test]
fn order_and_repeats_are_kept() {
    check("n3,n2,n1,n1", &expect!["n3 n2 n1 n1 | n[3,2,1,1] | n[1,1-3]"]);
    check("n[1-3],n[2-5]", &expect!["n1 n2 n3 n2 n3 n4 n5 | n[1-3,2-5] | n[1-2,2-3,3-5]"]);
    check(
        "r10n1,r9n1,r09n1,rn",
        &expect!["r10n1 r9n1 r09n1 rn | r10n1,r9n1,r09n1,rn | r09n1,r9n1,r10n1,rn"],
    );
}

#[test]
fn blanks_and_empty_entries() {
    check(" a, b\n\tc,,d,", &expect!["a b c d | a,b,c,d | a,b,c,d"]);
    check("", &expect![" |  | "]);
    check(" ,, ", &expect![" |  | "]);
}

#[test]
fn numbers_at_the_edge() {
    check(
        "n[18446744073709551614-18446744073709551615]",
        &expect![
            "n18446744073709551614 n18446744073709551615 | n[18446744073709551614-18446744073709551615] | n[18446744073709551614-18446744073709551615]"
        ],
    );
    check(
        "n18446744073709551615,n18446744073709551616",
        &expect![
            "n18446744073709551615 n18446744073709551616 | n18446744073709551615,n18446744073709551616 | n18446744073709551615,n18446744073709551616"
        ],
    );
}

#[test]
fn errors_say_what_and_where() {
    check("n[1-2", &expect!["bracket is never closed (at 1)"]);
    assert_eq!(problem("n["), (Problem::UnclosedBracket, 1));
    assert_eq!(problem("a,n[1-"), (Problem::UnclosedBracket, 3));
    assert_eq!(problem("a,n]"), (Problem::StrayBracket, 3));
    assert_eq!(problem("n[1]]"), (Problem::StrayBracket, 4));
    assert_eq!(problem("n[[1]]"), (Problem::NestedBracket, 2));
    assert_eq!(problem("n[1[2]]"), (Problem::NestedBracket, 3));
    assert_eq!(problem("n[]"), (Problem::EmptyRange, 2));
    assert_eq!(problem("n[1,,2]"), (Problem::EmptyRange, 4));
    assert_eq!(problem("n[1-]"), (Problem::EmptyRange, 4));
    assert_eq!(problem("n[-1]"), (Problem::NotANumber, 2));
    assert_eq!(problem("n[1-2-3]"), (Problem::NotANumber, 5));
    assert_eq!(problem("n[1, 2]"), (Problem::NotANumber, 4));
    assert_eq!(problem("n[0x1]"), (Problem::NotANumber, 3));
    assert_eq!(problem("n[10-9]"), (Problem::ReversedRange, 2));
    assert_eq!(problem("n[18446744073709551616]"), (Problem::NumberTooLarge, 2));
    assert_eq!(problem("a\u{7}"), (Problem::BadCharacter, 1));
    assert_eq!(problem("rack{1}"), (Problem::BadCharacter, 4));
}

#[test]
fn limits_hold_at_their_edges() {
    assert_eq!(Hostlist::parse("n[0-65535]").unwrap().len(), MAX_NAMES);
    assert_eq!(Hostlist::parse("n[0-255]x[0-255]").unwrap().len(), MAX_NAMES);
    assert_eq!(Hostlist::parse("n[0-65535]-ib").unwrap().names().len(), MAX_NAMES);
    assert_eq!(problem("n[0-65536]"), (Problem::RangeTooLarge, 2));
    assert_eq!(problem("n[0-9999999999]"), (Problem::RangeTooLarge, 2));
    assert_eq!(problem("n[0-65535],m"), (Problem::TooManyNames, 11));
    assert_eq!(problem("n[0-65534,1-2]"), (Problem::TooManyNames, 1));
    assert_eq!(problem("n[0-65535][0-65535]"), (Problem::TooManyNames, 10));
    assert_eq!(problem("m,n[0-255]x[0-255]"), (Problem::TooManyNames, 11));

    let long = "a".repeat(MAX_NAME_LEN);
    assert_eq!(Hostlist::parse(&long).unwrap().names(), [long.as_str()]);
    assert_eq!(problem(&format!("b,{long}a")), (Problem::NameTooLong, 2));
    assert_eq!(problem(&format!("{long}[1]")), (Problem::NameTooLong, 0));
    assert_eq!(problem(&format!("n[{}]", "0".repeat(256))), (Problem::NameTooLong, 2));
    assert_eq!(problem(&"[1]".repeat(256)), (Problem::NameTooLong, 0));
}

#[test]
fn a_bomb_is_refused_without_unpacking_it() {
    // Each would be gigabytes; a test that returns at all is the proof.
    for bomb in ["[0-65535]".repeat(200), format!("n{}", "[1-2]".repeat(64)), "[1]".repeat(1 << 20)]
    {
        assert!(Hostlist::parse(&bomb).is_err());
    }
    let full = Hostlist::parse("r[0-16383]n[0-3]").unwrap();
    assert_eq!(full.runs.len(), 16_384);
    assert!(full.text.len() < 16_384 * "r16383n".len());
}

#[test]
fn a_range_is_one_run() {
    let list = Hostlist::parse("node[00000-65535]").unwrap();
    assert_eq!((list.runs.len(), list.text.as_str()), (1, "node"));
    let folded = Hostlist::from_names(list.iter()).unwrap();
    assert_eq!((folded.runs.len(), folded.text.as_str()), (1, "node"));
}

#[test]
fn from_names_takes_names_only() {
    let error = |names: &[&str]| {
        let error = Hostlist::from_names(names).unwrap_err();
        (error.problem, error.at)
    };
    assert_eq!(error(&["a", ""]), (Problem::NotAName, 1));
    assert_eq!(error(&["a,b"]), (Problem::NotAName, 0));
    assert_eq!(error(&["a", "b", "n[1]"]), (Problem::NotAName, 2));
    assert_eq!(error(&["a\0"]), (Problem::BadCharacter, 0));
    assert_eq!(error(&vec!["n"; MAX_NAMES + 1]), (Problem::TooManyNames, MAX_NAMES));
}

#[test]
fn equality_is_about_names() {
    let same = |a, b| Hostlist::parse(a).unwrap() == Hostlist::parse(b).unwrap();
    assert!(same("n[1-2]x,n0[1-2]", "n1x,n2x,n01,n02"));
    assert!(!same("n[1-2]", "n[2,1]"));
    assert!(!same("n1", "n01"));
    assert!(!same("n[1-2]", "n[1-3]"));
}

#[test]
fn the_iterator_knows_how_many_are_left() {
    let list = Hostlist::parse("n[9-11]x,y").unwrap();
    let mut names = list.iter();
    assert_eq!(names.len(), 4);
    assert_eq!((names.next().as_deref(), names.len()), (Some("n9x"), 3));
    assert_eq!(names.by_ref().count(), 3);
    assert_eq!(names.next(), None);
}

fn arbitrary_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{0,2}[0-9]{1,3}",
        "[a-c]{1,2}(-?[0-9]{1,3}){1,2}[a-z]?",
        "[a-zé._-]{1,4}",
        "n[0-9]{18,22}",
    ]
}

fn arbitrary_range() -> impl Strategy<Value = String> {
    prop_oneof![
        "0{0,2}[0-9]{1,2}",
        (0..1200_u32, 0..12_u32, 0..5_usize)
            .prop_map(|(lo, more, width)| format!("{lo:0width$}-{:0width$}", lo + more)),
    ]
}

/// Lists that parse, unless they grow past a limit.
fn arbitrary_list() -> impl Strategy<Value = String> {
    let bracket = prop::collection::vec(arbitrary_range(), 1..4)
        .prop_map(|ranges| format!("[{}]", ranges.join(",")));
    let entry = (prop::collection::vec(("[a-c0-9]{0,2}", bracket), 0..3), arbitrary_name())
        .prop_map(|(parts, tail)| {
            parts
                .into_iter()
                .map(|(text, bracket)| text + &bracket)
                .chain([tail])
                .collect::<String>()
        });
    prop::collection::vec(entry, 0..6).prop_map(|entries| entries.join(","))
}

proptest! {
    #[test]
    fn printing_and_parsing_gives_the_list_back(text in arbitrary_list()) {
        let list = Hostlist::parse(&text).unwrap();
        let again = Hostlist::parse(&list.to_string()).unwrap();
        prop_assert_eq!(list.names(), again.names());
        prop_assert_eq!(&list, &again);
        prop_assert_eq!(list.to_string(), again.to_string());
        prop_assert_eq!(list.len(), list.iter().count());
        let mut visited = vec![];
        list.for_each_name(|name| visited.push(name.to_owned()));
        prop_assert_eq!(visited, list.names());
    }

    #[test]
    fn an_arena_holds_the_names_of_the_last_list(
        texts in prop::collection::vec(arbitrary_list(), 1..4)
    ) {
        let mut arena = Arena::default();
        for text in texts {
            let list = Hostlist::parse(&text).unwrap();
            arena.read(&text).unwrap();
            prop_assert_eq!(arena.iter().collect::<Vec<_>>(), list.names());
            prop_assert_eq!(arena.len(), list.len());
            for number in 0..=list.len() {
                prop_assert_eq!(arena.get(number), arena.iter().nth(number));
            }
            prop_assert!(arena.read("n[1").is_err() && arena.is_empty());
        }
    }

    #[test]
    fn folding_loses_nothing(names in prop::collection::vec(arbitrary_name(), 0..40)) {
        let list = Hostlist::from_names(&names).unwrap();
        prop_assert_eq!(&list.names(), &names);
        prop_assert_eq!(&Hostlist::parse(&list.to_string()).unwrap().names(), &names);
        let (mut sorted, mut expected) = (list.sorted().names(), names);
        prop_assert_eq!(list.sorted(), Hostlist::from_names(&sorted).unwrap().sorted());
        sorted.sort();
        expected.sort();
        prop_assert_eq!(sorted, expected);
    }

    #[test]
    fn sorting_forgets_the_order_it_got(
        (names, shuffled) in prop::collection::vec(arbitrary_name(), 0..40)
            .prop_flat_map(|names| (Just(names.clone()), Just(names).prop_shuffle()))
    ) {
        let sorted = |names: &[String]| Hostlist::from_names(names).unwrap().sorted().to_string();
        prop_assert_eq!(sorted(&names), sorted(&shuffled));
    }

    #[test]
    fn no_text_panics_or_passes_a_limit(
        text in prop_oneof![
            any::<String>(),
            r"[\[\]\[\],\-0-9n \n{]{0,40}",
            r"(n?\[[0-9,\-]{0,9}\]?){0,5}",
            r"(r\[[0-9]{1,3}-[0-9]{1,5}\]){1,4}",
        ]
    ) {
        match Hostlist::parse(&text) {
            Ok(list) => {
                prop_assert!(list.len() <= MAX_NAMES && list.runs.len() <= list.len());
                list.for_each_name(|name| assert!((1..=MAX_NAME_LEN).contains(&name.len())));
                prop_assert_eq!(list.iter().count(), list.len());
            }
            Err(error) => prop_assert!(error.at <= text.len()),
        }
    }
}

#[test]
fn a_number_is_read_alike_however_many_digits_and_whatever_is_behind_it() {
    for digits in
        ["0", "7", "42", "007", "1999", "65535", "196605", "9999999", "12345678", "00000001"]
    {
        for behind in
            ["]", "],abcdefgh", "-99999999]", ",1]", ",1],9", "],\u{e9}\u{e9}\u{e9}\u{e9}"]
        {
            let text = format!("n[{digits}{behind}");
            let Ok(list) = Hostlist::parse(&text) else { continue };
            assert_eq!(list.iter().next(), Some(format!("n{digits}")), "{text}");
        }
        for behind in ["/", ":", "a", "\u{b9}", " "] {
            let text = format!("n[{digits}{behind}1234567]");
            let error = Hostlist::parse(&text).expect_err("not a number");
            assert_eq!(
                (error.problem, error.at),
                (Problem::NotANumber, 2 + digits.len()),
                "{text}"
            );
        }
    }
}
