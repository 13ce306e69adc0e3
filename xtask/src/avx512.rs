//! The kernels' tests on an emulated processor with AVX-512 and VNNI, for machines that have neither.
//!
//! Bochs emulates such a processor (QEMU does not). It boots Debian's smallest kernel with a file system of the test
//! program and the libraries it needs, and writes what the tests print to a file. It says what the instructions
//! compute; it says nothing about time.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cuda, debian,
    workspace::{Workspace, output, run},
};

/// Debian's packages that emulate, pack and boot.
const PACKAGES: [&str; 9] =
    ["bochs", "bochs-term", "bochsbios", "vgabios", "busybox-static", "cpio", "isolinux", "syslinux-common", "xorriso"];

/// Depends on the newest kernel for virtual machines, which boots several times as fast as the one for all hardware.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Those that compare instruction sets or run through all kernels of bytes, and take the emulator a minute.
const TESTS: [&str; 5] = ["matrix::block_tile", "matrix::kernel", "rounded_products", "byte_tile", "simd::"];

/// What the file system's first program prints before and after the tests.
const BEGIN: &str = "the tests begin";
const END: &str = "the tests ended with ";

/// What the processor must have.
const FEATURES: [&str; 3] = ["avx512f", "avx512bw", "avx512_vnni"];

/// How long the emulator may take. On a core of its own it took a minute and a half, beside other builds five minutes.
const LIMIT: Duration = Duration::from_mins(20);

/// Bochs 2.7 gives wrong sizes for the state of protection keys and of compact XSAVE (515, 321, 323: the kernel would do
/// without XSAVE, so without AVX), and promises fast short moves that the kernel's copying then trips over (580).
const KERNEL_OPTIONS: &str = "console=ttyS0,115200 mitigations=off tsc=reliable random.trust_cpu=on nokaslr \
                              clearcpuid=515,321,323,580 no_timer_check panic=-1 rdinit=/init";

/// Builds the tests and runs them there.
pub fn test(workspace: &Workspace) -> Result<()> {
    debian::install(workspace, &PACKAGES)?;
    let messages = output(workspace.cargo_command(&["test", "--release", "--package", "opencharacter-nn"]).args([
        "--lib",
        "--no-run",
        "--message-format",
        "json",
    ]))?;
    let test = cuda::executable(&messages)?;
    let folder = workspace.target_path("avx512");
    let image = image(workspace, &folder, &test)?;
    let serial = folder.join("serial.txt");
    fs::write(&serial, "").with_context(|| format!("cannot write `{}`", serial.display()))?;
    let printed = boot(workspace, &folder, &image, &serial)?;
    println!("{printed}");
    for feature in FEATURES {
        ensure!(printed.split_whitespace().any(|word| word == feature), "the emulated processor lacks {feature}");
    }
    let code = printed.lines().find_map(|line| line.strip_prefix(END)).context("the tests did not end")?;
    ensure!(code == "0", "tests failed on the emulated processor");
    Ok(())
}

/// A disc that boots into the tests.
fn image(workspace: &Workspace, folder: &Path, test: &Path) -> Result<PathBuf> {
    let (root, disc) = (folder.join("root"), folder.join("disc"));
    for old in [&root, &disc] {
        let _ = fs::remove_dir_all(old);
    }
    for new in ["bin", "proc", "sys", "dev", "tmp"].map(|name| root.join(name)).iter().chain([&disc]) {
        fs::create_dir_all(new).with_context(|| format!("cannot make `{}`", new.display()))?;
    }
    copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    run(workspace.command("strip").arg("-o").arg(root.join("test")).arg(test))?;
    for word in output(workspace.command("ldd").arg(test))?.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(word), &root.join(&word[1..]))?;
    }
    let init = root.join("init");
    let script = format!(
        "#!/bin/busybox sh\nfor kind in devtmpfs:dev proc:proc sysfs:sys tmpfs:tmp; do\n  \
         /bin/busybox mount -t ${{kind%:*}} none /${{kind#*:}}\ndone\nexec >/dev/ttyS0 2>&1 </dev/null\n\
         echo {BEGIN}\n/bin/busybox grep -m1 -o 'avx512.*' /proc/cpuinfo\n/test {} --test-threads=1\n\
         echo \"{END}$?\"\nwhile :; do /bin/busybox sleep 1000; done\n",
        TESTS.join(" ")
    );
    fs::write(&init, script).with_context(|| format!("cannot write `{}`", init.display()))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let pack = format!("find . | cpio --quiet -o -H newc | gzip -1 > {}", disc.join("initrd.gz").display());
    run(workspace.command("sh").args(["-c", &pack]).current_dir(&root))?;
    copy(&kernel(workspace, folder)?, &disc.join("vmlinuz"))?;
    copy(Path::new("/usr/lib/ISOLINUX/isolinux.bin"), &disc.join("isolinux.bin"))?;
    copy(Path::new("/usr/lib/syslinux/modules/bios/ldlinux.c32"), &disc.join("ldlinux.c32"))?;
    let loader =
        format!("DEFAULT l\nPROMPT 0\nLABEL l\n KERNEL vmlinuz\n INITRD initrd.gz\n APPEND {KERNEL_OPTIONS}\n");
    fs::write(disc.join("isolinux.cfg"), loader)?;
    let image = folder.join("boot.iso");
    let mut make = workspace.command("xorriso");
    make.args(["-as", "mkisofs", "-quiet", "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"]);
    make.args(["-boot-load-size", "4", "-boot-info-table", "-R", "-o"]).arg(&image).arg(&disc);
    run(&mut make)?;
    Ok(image)
}

/// The kernel, out of its package; nothing of it is installed.
fn kernel(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let package = output(workspace.command("apt-cache").args(["depends", "--no-recommends", KERNEL]))?
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))
        .with_context(|| format!("`{KERNEL}` names no kernel: is this Debian?"))?;
    let (files, version) = (folder.join(&package), package.trim_start_matches("linux-image-"));
    let kernel = files.join("boot").join(format!("vmlinuz-{version}"));
    if !kernel.is_file() {
        // Named last: an extraction that was interrupted is no kernel.
        let fetch = format!(
            "rm -rf part {package}_*.deb && apt-get download {package} && dpkg-deb -x {package}_*.deb part && \
             mv part {package} && rm {package}_*.deb"
        );
        run(workspace.command("sh").args(["-c", &fetch]).current_dir(folder))?;
    }
    Ok(kernel)
}

/// Boots, and returns what was printed from the first of the tests on.
fn boot(workspace: &Workspace, folder: &Path, image: &Path, serial: &Path) -> Result<String> {
    let settings = format!(
        "config_interface: textconfig\ndisplay_library: rfb, options=\"timeout=0\"\nmegs: 1024\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\nvgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
         cpu: model=corei7_icelake_u, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
         clock: sync=none, time0=local\npci: enabled=1, chipset=i440fx\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path={}, status=inserted\nboot: cdrom\ncom1: enabled=1, mode=file, dev={}\n\
         log: {}\npanic: action=fatal\nerror: action=ignore\ninfo: action=ignore\ndebug: action=ignore\n",
        image.display(),
        serial.display(),
        folder.join("bochs.log").display()
    );
    let (settings_file, commands) = (folder.join("bochsrc"), folder.join("commands"));
    fs::write(&settings_file, settings)?;
    // Debian's Bochs has a debugger, which waits to be told to continue.
    fs::write(&commands, "c\n")?;
    let mut bochs = workspace.command("bochs-bin");
    bochs.args(["-q", "-f"]).arg(&settings_file).arg("-rc").arg(&commands);
    let bochs = bochs.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut emulator = bochs.spawn().context("`bochs-bin` cannot be started")?;
    let printed = wait(&mut emulator, serial);
    // It does not end by itself; gone already is as good.
    let _ = emulator.kill();
    let _ = emulator.wait();
    printed
}

fn wait(emulator: &mut Child, serial: &Path) -> Result<String> {
    let start = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(500));
        let text = String::from_utf8_lossy(&fs::read(serial)?).replace('\r', "");
        let tests = text.find(BEGIN).map(|place| &text[place..]);
        if let Some(tests) = tests
            && tests.find(END).is_some_and(|place| tests[place..].contains('\n'))
        {
            return Ok(tests.to_owned());
        }
        let ended = emulator.try_wait()?.is_some() || text.contains("Kernel panic");
        if ended || start.elapsed() > LIMIT {
            let last: Vec<&str> = text.lines().rev().take(20).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let why = if ended { "ended early" } else { "took too long" };
            bail!("the emulator {why}; the last lines of `{}`:\n{}", serial.display(), last.join("\n"));
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy `{}`", from.display()))?;
    Ok(())
}
