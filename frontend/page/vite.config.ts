import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// `npm run dev` and `npm run preview` ask a running graph, as frontend/server.py does for the built page.
const transformer = process.env.FRONTEND_TRANSFORMER_URL ?? "http://127.0.0.1:8080";
const ingest = process.env.FRONTEND_INGEST_URL ?? "http://127.0.0.1:8086";
const frontend = process.env.FRONTEND_URL ?? "http://127.0.0.1:8088";

const proxy = {
  "/api/transformer": { target: transformer, rewrite: (path: string) => path.replace("/api/transformer", "") },
  "/api/ingest": { target: ingest, rewrite: (path: string) => path.replace("/api/ingest", "") },
  "/api/config": { target: frontend },
};

export default defineConfig({
  plugins: [react()],
  base: "./",
  server: { proxy },
  preview: { proxy },
  build: {
    outDir: "../dist",
    emptyOutDir: true,
    target: "es2022",
    // The server's Content-Security-Policy has no data: URLs for fonts, and no inline scripts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // One chunk holds React and the chat's library; what is not needed at once is split off already.
    chunkSizeWarningLimit: 700,
    license: { fileName: "licences.md" },
  },
});
