//! The README's service is the one that is built and tested.

#[test]
fn its_example_is_that_of_the_file_in_thirty_lines() {
    let (readme, example) = (
        include_str!("../../README.md"),
        include_str!("../../examples/hello.rs"),
    );
    let (_, code) = example.split_once("\n\n").expect("a first paragraph");
    assert!(readme.contains(&format!("```rust\n{code}```\n")));
    assert_eq!(code.lines().count(), 30);
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
