//! The README's code is the one that is built and tested.

#[test]
fn its_example_is_that_of_the_file_in_thirty_lines() {
    let (readme, example) = (
        include_str!("../../README.md"),
        include_str!("../../examples/hello.rs"),
    );
    let (_, code) = example.split_once("\n\n").expect("a first paragraph");
    assert!(readme.contains(&format!("```rust,no_run\n{code}```\n")));
    assert_eq!(code.lines().count(), 30);
}

/// Rustdoc does that. Those that need something around them stand in `src/readme.rs` once more, where that is.
#[test]
fn each_of_its_examples_is_compiled() {
    let readme = include_str!("../../README.md");
    // The language of the page, and none that rustdoc compiles.
    let parts = blocks(readme, "```rs");
    let twins = include_str!("../../src/readme.rs").replace("///\n", "/// \n");
    let lines = twins.lines().filter_map(|line| line.strip_prefix("/// "));
    let twins = lines
        .filter(|line| !line.starts_with("# "))
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect::<String>();
    let twins = blocks(&twins, "```no_run");
    for (part, twin) in parts.iter().zip(&twins) {
        assert_eq!(part, twin);
    }
    assert_eq!(parts.len(), twins.len());
}

/// What stands in fences that begin with these words.
fn blocks<'a>(text: &'a str, fence: &str) -> Vec<&'a str> {
    let begin = format!("{fence}\n");
    text.match_indices(&begin)
        .map(|(at, begin)| &text[at + begin.len()..])
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect()
}

#[test]
fn its_handler_and_its_test_are_those_that_run_here() {
    let (readme, code) = (include_str!("../../README.md"), include_str!("handler.rs"));
    let (_, code) = code.split_once("\n\n").expect("a first paragraph");
    let (service, _) = code.split_once("\n#[tokio::test]").expect("its test");
    let test = &code[service.len() + 1..];
    for block in [service, test] {
        assert!(
            readme.contains(&format!("```rust\n{block}```\n")),
            "{block}"
        );
    }
}
