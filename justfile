# Everyday commands. `just` lists them.

default:
    @just --list

# Serve the built-in app on 127.0.0.1:8080
run *ARGS:
    cargo run -- {{ARGS}}

# What must be clean before a commit
check:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
    cargo deny check bans licenses sources

# All tests; as root on Debian those under a real systemd too
test *ARGS:
    cargo test --locked {{ARGS}}

# The tests under a real systemd only (root on Debian)
test-systemd *ARGS:
    cargo test --locked --test systemd {{ARGS}}

# Everything that CI does, with what it installs
ci:
    .ci/run
