import { Component, type ReactNode } from "react";

/**
 * Shows something else in place of what cannot be shown: a part of the page that did not load, as after a new version of
 * it was installed, or a fault in it. The rest stays.
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
