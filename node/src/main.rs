//! The `skein` binary.

#[global_allocator]
static ALLOCATOR: node::allocator::Allocator = node::allocator::Allocator;

fn main() -> std::process::ExitCode {
    node::cli::main()
}
