/** That the documents do not answer: no answer is made up, and what they do speak of is at hand. */

import { FileSearch } from "lucide-react";
import { openDocument } from "../ui/panels";
import type { Answer } from "./answer";

export function Refusal({ answer }: { answer: Answer }) {
  return (
    <div className="refusal">
      <FileSearch aria-hidden />
      <div>
        <p className="refusal-title">The documents do not answer this.</p>
        <p>
          {answer.topics.length > 0
            ? "Rather than guess, here is what they say nearest to it:"
            : "Rather than guess, nothing is claimed."}
        </p>
        {answer.topics.length > 0 && (
          <ul className="topics" aria-label="Nearest topics">
            {answer.topics.map((topic) => (
              <li key={`${topic.document_id} ${topic.heading}`}>
                <button
                  type="button"
                  onClick={() =>
                    openDocument({ documentId: topic.document_id, title: topic.title, heading: topic.heading })
                  }
                >
                  <span className="topic-title">{topic.heading || topic.title || topic.document_id}</span>
                  {topic.heading && topic.title && <span className="topic-in">{topic.title}</span>}
                </button>
              </li>
            ))}
          </ul>
        )}
      </div>
    </div>
  );
}
