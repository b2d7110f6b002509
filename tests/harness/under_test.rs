//! The `skein` command for the tests: the same library, always built by `cargo test`.

fn main() -> std::process::ExitCode {
    node::cli::main()
}
