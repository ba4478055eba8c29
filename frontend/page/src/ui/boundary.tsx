import { Component, type ReactNode } from "react";

/**
 * Error boundary: shows a fallback if a part of the page fails to load or to render, for example after an upgrade. The
 * rest of the page keeps working.
 */
export class Boundary extends Component<{ children: ReactNode; otherwise: ReactNode }, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  override render() {
    return this.state.failed ? this.props.otherwise : this.props.children;
  }
}
