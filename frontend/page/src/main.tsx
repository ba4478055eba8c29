import "./ui/storage";
import "@fontsource-variable/inter/wght.css";
import "@fontsource-variable/source-serif-4/wght.css";
import "./styles/index.css";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { refresh } from "./api/catalog";
import { App } from "./app";
import { Boundary } from "./ui/boundary";
import { Broken } from "./ui/broken";
import { start } from "./chat/store";
import { applyTheme } from "./ui/theme";

applyTheme();
void start();
void refresh();

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <Boundary otherwise={<Broken />}>
        <App />
      </Boundary>
    </StrictMode>,
  );
  // Preload the answer view after the page has rendered.
  const soon = "requestIdleCallback" in window ? requestIdleCallback : setTimeout;
  soon(() => void import("./chat/prose").catch(() => undefined));
}
