//! Compiles the `.proto` files with protox, so that no installed protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["mallorn/v1/types.proto", "mallorn/v1/master.proto", "mallorn/v1/worker.proto", "mallorn/v1/lifecycle.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
