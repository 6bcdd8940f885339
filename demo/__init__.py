"""The demo: fictitious patients on real pictures, sealed by the real pipeline."""

from engine import Role

#: Shown on the sign-in page of a demo only; a demo contains fictitious patients only.
PASSWORD = "invented patients only"  # noqa: S105
NAMES = {
    Role.TECHNICIAN: "Tina Technician",
    Role.DOCTOR: "Dr. Dora Doctor",
    Role.RESEARCHER: "Remy Researcher",
    Role.ADMINISTRATOR: "Ada Administrator",
}
