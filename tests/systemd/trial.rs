use crate::machine::Machine;
pub(crate) fn it_boots(machine: &Machine) {
    println!("{}", machine.ok("systemctl --version; systemd-analyze; systemd-analyze blame; journalctl -b -o short-monotonic --no-pager"));
    machine.install();
    machine.ok("systemctl enable --now payload.socket");
    println!("{:?}", machine.journal("payload.socket"));
}
pub(crate) fn it_fails(machine: &Machine) {
    machine.ok("false");
}
