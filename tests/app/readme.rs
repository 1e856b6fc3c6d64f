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
